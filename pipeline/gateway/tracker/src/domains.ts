// One anonymous id over a partner's own sites, without third-party cookies: a click on a link to another of them takes
// it along in the address, where it is good for two minutes and in this browser only.

import { agreed, consented } from "./consent";
import { anonymousId } from "./identity";
import { scope, settings } from "./settings";
import { get } from "./storage";

/** Milliseconds that an id in an address is good. */
const enum Time {
  PASS = 120_000,
}

/**
 * The numbers of this browser. They are no secret: they keep an address that somebody passes on from passing on who
 * they are.
 */
const browser = (): string => navigator.userAgent.replace(/\D+/g, "");

/** Whether it is one of the partner's sites: hosts, with the port where the address has one. */
const among = (host?: string): boolean => ("" + settings.domains).split(" ").includes(host!);

/** Puts the id into the address of a link to another of the sites, for as long as the click is looked at. */
export const decorate = (link: HTMLAnchorElement | null): void => {
  if (
    link?.host &&
    link.host != location.host &&
    among(link.host) &&
    +consented() &&
    !(navigator as { globalPrivacyControl?: boolean }).globalPrivacyControl
  ) {
    const { search } = link;
    link.search += `&_hr=${anonymousId()}.${Date.now()}.${browser()}`;
    setTimeout(() => (link.search = search));
  }
};

/** Takes the id out of this page's address, and for this page's own if another of the sites has just given it. */
export const arrive = (): void => {
  const clean = document.URL.replace(/([?&]+)_hr=([\w-]{8,64})\.(\d+)\.(\d+)(&?)/, (_, before, id, at, of, after) => {
    if (Date.now() - at < Time.PASS && of == browser() && among(document.referrer.split("/")[2]))
      agreed(() => get(scope + "u") || anonymousId(id));
    return after && before;
  });
  if (clean != document.URL) history.replaceState(history.state, "", clean);
};
