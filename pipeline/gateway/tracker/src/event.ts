// A call becomes an event: it gets its person, its visit and its page.

import { anonymousId, random } from "./identity";
import { scope } from "./settings";
import { get, set } from "./storage";

/** Milliseconds without an event after which the next one starts a new visit. */
const enum Time {
  IDLE = 1_800_000,
}

/** What a call contributes to its event. */
export interface Call {
  type: "track" | "page" | "identify";
  event?: string;
  name?: string | undefined;
  groupId?: unknown;
  properties?: object | undefined;
  traits?: object | undefined;
}

export interface Event extends Call {
  messageId: string;
}

/**
 * Takes down the time and the page of a call. What is returned makes its event, later where consent is awaited, after
 * a "Visit Started" where a new visit starts with it: after idle minutes, or with another campaign in the address.
 */
export const eventsOf = (call: Call): (() => Event[]) => {
  const timestamp = Date.now();
  const page = {
    url: document.URL,
    path: location.pathname,
    title: document.title,
    referrer: document.referrer,
  };
  // As text, which the browser has encoded: there is no space in it.
  const here = (location.search.match(/\butm_[^&]+/g) || []).join("&");
  call.properties = { ...(call.type == "page" && page), ...call.properties };
  return () => {
    let [id, last, utm] = (get(scope + "s") || "").split(" ");
    const going = timestamp - +last! < Time.IDLE && (!here || here == utm);
    if (!going) {
      id = random();
      utm = here;
    }
    set(scope + "s", `${id} ${timestamp} ${utm}`);
    let campaign: Record<string, string> | undefined;
    new URLSearchParams(utm).forEach((value, name) => {
      (campaign ||= {})[name.slice(4).replace(/^campaign$/, "name")] = value;
    });
    const shared = {
      anonymousId: anonymousId(),
      userId: get(scope + "u"),
      timestamp,
      context: {
        page,
        campaign,
        session: id,
        locale: navigator.language,
        gpc: (navigator as { globalPrivacyControl?: boolean }).globalPrivacyControl,
      },
    };
    const calls = going ? [call] : [{ type: "track", event: "Visit Started", properties: { ...page, campaign } }, call];
    return (calls as Call[]).map((call) => ({ ...call, ...shared, messageId: random() }));
  };
};
