// Events without a script: <button data-hr-event="Product Added" data-hr-sku="J1">, <form data-hr-event="Form Sent">.

import type { Props } from "../headrace";
import { track } from "./tracker";

/**
 * What marks a field whose value stays in the page: passwords (shown as text too), files, cards, what the visitor does
 * not see, and what the page says. Looked for in the whole tag: rather one field too few than one too many.
 */
const SECRET = /passw|="(hidden|file)"|\bcc-|hr-ignore/i;

/** Tracks what a click on `target`, or the submission of this form, stands for, if anything. */
export const declared = (target: Element, submitted: boolean): void => {
  const element = target.closest("[data-hr-event]") as HTMLFormElement | null;
  if (element && submitted == !!element.elements) {
    const props: Props = {};
    if (submitted) {
      const data = new FormData(element);
      for (const field of element.elements) if (SECRET.test(field.outerHTML)) data.delete((field as HTMLInputElement).name);
      data.forEach((_, name) => (props[name] = "" + data.getAll(name)));
    }
    for (const { name, value } of element.attributes) {
      if (/^data-hr-(?!event)/.test(name)) props[name.slice(8).replace(/-/g, "_")] = value;
    }
    track(element.dataset.hrEvent!, props);
  }
};
