// Page views by themselves: the page that was loaded, and those that its script shows without loading
// (history.pushState, back); these have the address before as their referrer.

import { api } from "./tracker";

export const viewPages = (): void => {
  let shown = "";
  const look = (): void => {
    const referrer = shown;
    shown = document.URL.split("#")[0]!;
    if (referrer != shown) api.page(undefined, (referrer && { referrer }) as { referrer: string });
  };
  // In a turn of its own, since by then the page has mostly set its title.
  const later = (_: unknown): unknown => setTimeout(look);
  const { pushState } = history;
  history.pushState = (...to) => later(pushState.apply(history, to));
  addEventListener("popstate", later);
  look();
};
