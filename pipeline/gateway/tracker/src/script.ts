// What the script's own tag says.

import { warn } from "./warn";

/**
 * Calls `open` with the address of the gateway's batch call and the tag's data attributes, once the page is
 * shown: a page that is only prerendered is no visit.
 */
export const start = (open: (url: URL, data: DOMStringMap) => void): void => {
  const tag = document.currentScript as HTMLScriptElement | null;
  const run = (): void => {
    try {
      const data = tag!.dataset;
      open(new URL((data.endpoint || "").replace(/\/*$/, "/v1/batch"), tag!.src), data);
    } catch (error) {
      warn(error);
    }
  };
  if ((document as { prerendering?: boolean }).prerendering) document.addEventListener("prerenderingchange", run);
  else run();
};
