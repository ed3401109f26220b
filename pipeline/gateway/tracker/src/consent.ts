// What the visitor has decided; calls wait for it where the page wants to be told first.

import { scope, settings } from "./settings";
import { guarded } from "./warn";
import { get, keys, set } from "./storage";
import { anonymousId } from "./identity";

/** Calls that wait for consent, at most; later ones are lost. */
const HELD = 500;

const held: (() => void)[] = [];

/** "1": all is done at once, "0": nothing is, "": calls wait. It is asked each time, since other tabs change it. */
export const consented = (): string => get(scope + "c") || (settings.consent ? "" : "1");

const settle = (): void => {
  if (consented()) held.splice(0).forEach((what) => +consented() && what());
};

/** Does `what` if the visitor agrees, as soon as that is known. */
export const agreed = (what: () => void): void => {
  if (!held[HELD]) held.push(guarded(what));
  settle();
};

/** Removes these entries, and the anonymous id. */
export const forget = (entries: string[]): void => {
  entries.forEach((entry) => set(entry));
  anonymousId("");
};

export const consent = (granted: boolean): void => {
  if (!granted) forget(keys(scope));
  set(scope + "c", "" + +!!granted);
  settle();
};
