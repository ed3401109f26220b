// Starts the tracker of a page, whose settings are in use.

import { declared } from "./attributes";
import { arrive, decorate } from "./domains";
import { openQueue } from "./queue";
import { settings } from "./settings";
import { viewPages } from "./view";
import { guarded } from "./warn";

export const load = (): void => {
  openQueue();
  arrive();
  for (const type of ["click", "auxclick", "submit"])
    addEventListener(
      type,
      guarded((event) => {
        // Not the right button: it only opens a menu.
        if ((event as MouseEvent).button > 1) return;
        declared(event.target as Element, type == "submit");
        decorate((event.target as Element).closest("a"));
      }),
      true,
    );
  if ("" + settings.auto != "false") viewPages();
};
