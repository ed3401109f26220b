// Events wait in localStorage until the gateway has them, each in an entry of its own, so that tabs of one site never
// overwrite each other's. An entry goes when the gateway has answered, and no sooner: what a closed page may or may not
// have delivered is sent again by another page, and deduplicated by its message id.

import type { Event } from "./event";
import { batch, scope, settings } from "./settings";
import { get, keys, set } from "./storage";

const enum Limit {
  /** Characters of an event, and of the events in a request: at most 60 KB of UTF-8; keepalive takes 64 KiB. */
  REQUEST = 20_000,
  /** Events kept while the gateway is away; the oldest go first. */
  WAITING = 500,
}

/** Milliseconds. */
const enum Time {
  /** How long an event is kept: the gateway recognises a repeat for 24 hours, no longer. */
  AGE = 86_400_000,
  /** After this, other pages send it too. */
  LEFT = 5_000,
  /** How long an event waits for company. */
  DELAY = 300,
  /** After this long without an answer, a request counts as failed. */
  ANSWER = 30_000,
  /** No gateway and no back-off asks for a longer wait: it comes from a clock that was set back. */
  LONGEST = 7_200_000,
}

/** Seconds. */
const enum Wait {
  /** The longest back-off, before jitter. */
  BACKOFF = 300,
  /** The longest Retry-After that is believed. */
  ASKED = 3_600,
}

/** Entries of this page, and those it has taken over: 1 while a request has them that has no answer, else 0. */
const ours: Record<string, number> = {};
let timer = 0;
let failures = 0;
let count = 1e5;

/** The oldest that fit into one request, of ours and of what others left. Drops outdated ones. */
const next = (): string[] => {
  let length = 0;
  return keys(scope + "e.").filter((entry, i, all) => {
    const age = Date.now() - parseInt(entry.slice(scope.length + 2));
    return age > Time.AGE || i < all.length - Limit.WAITING
      ? set(entry)
      : !(ours[entry] ?? age < Time.LEFT) && (length += get(entry)!.length) <= Limit.REQUEST;
  });
};

/** Sends these entries. Returns how many milliseconds to wait before the next request; 0 when this one was answered. */
const send = async (entries: string[]): Promise<number> => {
  const body = `${JSON.stringify({ writeKey: settings.key, sentAt: new Date() }).slice(0, -1)},"batch":[${entries.map(get)}]}`;
  let wait = 0;
  entries.forEach((entry) => (ours[entry] = 1));
  try {
    const response = await fetch(batch, {
      method: "POST",
      body, // as text/plain, which needs no CORS preflight
      keepalive: true,
      signal: AbortSignal.timeout?.(Time.ANSWER),
    });
    if (response.status > 428) throw +response.headers.get("retry-after")!;
    failures = 0;
    entries.forEach((entry) => set(entry));
    const said = await response.text();
    // Of a batch, the gateway takes what is good, and tells of the rest.
    if (!/true/.test(said)) console.warn(said);
  } catch (asked) {
    const seconds = asked as number;
    wait =
      1_000 *
      (Math.min(Wait.ASKED, (seconds > 0 && seconds) as number) + Math.min(Wait.BACKOFF, 2 ** failures++ * (1 + Math.random())));
    // What the gateway says binds all tabs, and later pages.
    if (seconds >= 0) set(scope + "w", Date.now() + wait + "");
    entries.forEach((entry) => (ours[entry] = 0));
  }
  return wait;
};

/** Sends all there is, a request at a time; a page that is leaving sends it at once. Returns how long to wait. */
const drain = async (staying: unknown): Promise<number> => {
  let wait = +get(scope + "w")! - Date.now();
  if (!(wait > 0 && wait < Time.LONGEST)) wait = 0;
  for (let entries; !wait && (entries = next())[0]; ) {
    if (staying) wait = await send(entries);
    else void send(entries);
  }
  return wait;
};

const flush = async (): Promise<void> => {
  let wait;
  try {
    // One tab at a time, since all take what was left. (Plain http pages have no locks.)
    wait = await navigator.locks.request(scope, drain);
  } catch {
    wait = await drain(1);
  }
  timer = 0;
  // What came in since `drain` looked has set no timer, and what another page left may have been too young.
  if (keys(scope + "e.")[0]) schedule(wait || Time.DELAY);
};

const schedule = (wait: number): void => {
  timer ||= setTimeout(flush, wait);
};

/** Begins to send, what earlier pages left included. */
export const openQueue = (): void => {
  addEventListener("online", flush);
  // A page that is hidden may be on its way out, or never come back: it sends at once, and takes no lock, which a page
  // that is gone by then would keep from the next one. Where it does come back, timers may have slept.
  addEventListener("visibilitychange", () => drain(!document.hidden));
};

/** Throws what JSON.stringify throws. */
export const enqueue = (event: Event): void => {
  const json = JSON.stringify(event);
  if (json.length > Limit.REQUEST) throw "too large";
  // Milliseconds come first, then a count, so that entries sort by age.
  const entry = scope + "e." + Date.now() + "_" + count++ + event.messageId;
  set(entry, json);
  ours[entry] = 0;
  schedule(Time.DELAY);
};
