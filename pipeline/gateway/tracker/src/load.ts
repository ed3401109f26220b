// Starts the tracker of a page, whose settings are in use. (The order of imports is that of the code in the built file;
// this one packs best.)

import { settings } from "./settings";
import { arrive, decorate } from "./domains";
import { openQueue } from "./queue";
import { guarded } from "./warn";
import { viewPages } from "./view";
import { declared } from "./attributes";

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
