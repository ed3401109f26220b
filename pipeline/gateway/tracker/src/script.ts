// What the script's own tag says.

import { use } from "./settings";
import { guarded } from "./warn";

/** Calls `open` with the tag's settings in use, once the page is shown: a page that is only prerendered is no visit. */
export const start = (open: () => void): void => {
  const { dataset, src } = document.currentScript as HTMLScriptElement;
  const run = guarded(() => {
    use(dataset, src);
    open();
  });
  if ((document as { prerendering?: boolean }).prerendering) document.addEventListener("prerenderingchange", run);
  else run();
};
