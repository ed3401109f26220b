// A call becomes an event: it gets its person, its visit and its page.

import { anonymousId, random } from "./identity";
import { get, set } from "./storage";

declare const VERSION: string;

/** Milliseconds without an event after which the next one starts a new visit. */
const enum Time {
  IDLE = 1_800_000,
}

/** What a call contributes to its event. */
export interface Call {
  type: "track" | "page" | "identify";
  event?: string;
  name?: string | undefined;
  properties?: object | undefined;
  traits?: object | undefined;
}

export interface Event extends Call {
  messageId: string;
}

/** The UTM parameters of the page's address, `utm_campaign` as `name`; undefined without any. */
const campaignOf = (): Record<string, string> | undefined => {
  let campaign: Record<string, string> | undefined;
  for (const [name, value] of new URLSearchParams(location.search)) {
    if (name.startsWith("utm_")) (campaign ||= {})[name == "utm_campaign" ? "name" : name.slice(4)] = value;
  }
  return campaign;
};

/** The call's event, after a "Visit Started" where a new visit starts with it. */
export const eventsOf = (call: Call, scope: string): Event[] => {
  const now = Date.now();
  const [id, last] = ("" + get(scope + "s")).split("/");
  const going = now - +last! < Time.IDLE;
  const sessionId = going ? id : random();
  set(scope + "s", sessionId + "/" + now);

  const page = {
    url: location.href,
    path: location.pathname,
    title: document.title,
    referrer: document.referrer,
  };
  const campaign = campaignOf();
  const shared = {
    anonymousId: anonymousId(),
    userId: get(scope + "u"),
    timestamp: new Date(),
    context: {
      page,
      campaign,
      sessionId,
      library: { name: "headrace.js", version: VERSION },
      locale: navigator.language,
    },
  };
  if (call.type == "page") call.properties = { ...page, ...call.properties };
  const calls = going ? [call] : [{ type: "track", event: "Visit Started", properties: { ...page, campaign } }, call];
  return (calls as Call[]).map((call) => ({ ...call, ...shared, messageId: random() }));
};
