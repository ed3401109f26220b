// Sends what waits in the outbox, until the gateway has answered for it.

import type { Event } from "./event";
import { add, bodyOf, Limit, take } from "./outbox";
import { get, remove, set } from "./storage";
import { warn } from "./warn";

/** Milliseconds. */
const enum Time {
  /** How long an event waits for company. */
  DELAY = 300,
  /** First and longest wait between tries, before jitter. */
  FIRST_BACKOFF = 1_000,
  LAST_BACKOFF = 300_000,
  /** The longest pause that a Retry-After can bring about. */
  PAUSE = 3_600_000,
  /** After this long without an answer, a request counts as failed. */
  ANSWER = 30_000,
}

/** Opens the queue of one source, what earlier pages left included. `scope` prefixes its keys in localStorage. */
export const openQueue = (url: URL, writeKey: string, scope: string): ((event: Event) => void) => {
  const prefix = scope + "e.";
  const notBefore = scope + "w";
  /** Entries of this page. */
  const mine = new Set<string>();
  /** Entries in a request of this page that has no answer yet. */
  const inFlight = new Set<string>();
  let timer = 0;
  let failures = 0;
  let busy = false;

  const schedule = (wait: number): void => {
    timer ||= setTimeout(flush, wait);
  };

  const backoff = (): number =>
    Math.min(Time.LAST_BACKOFF, Time.FIRST_BACKOFF * 2 ** failures++) * (0.5 + Math.random() / 2);

  /** Milliseconds until the gateway wants to be asked again; it binds all tabs, and the pages after this one. */
  const pause = (): number => {
    const left = Number(get(notBefore)) - Date.now();
    return left > 0 && left <= Time.PAUSE ? left : 0;
  };

  /** What to send next: this page's entries and, unless it is leaving, those that others left. */
  const next = (leaving?: boolean): string[] =>
    take(prefix, (key, left) => !inFlight.has(key) && (mine.has(key) || (left && !leaving)));

  /** Sends these entries. Returns how long to wait before the next request; 0 when this one was answered. */
  const send = async (entries: string[], leaving?: boolean): Promise<number> => {
    const body = bodyOf(writeKey, entries);
    let wait = 0;
    for (const key of entries) inFlight.add(key);
    try {
      if (leaving && !("keepalive" in Request.prototype)) {
        navigator.sendBeacon(url, body);
        return 0; // No answer will tell: the entries stay for the next page.
      }
      const response = await fetch(url, {
        method: "POST",
        body, // as text/plain, which needs no CORS preflight
        keepalive: true,
        signal: AbortSignal.timeout?.(Time.ANSWER),
      });
      if (response.status == 429 || response.status > 499) {
        const asked = Number(response.headers.get("retry-after")) * 1000;
        wait = Math.min(Time.PAUSE, (asked > 0 ? asked : 0) + backoff());
        set(notBefore, "" + (Date.now() + wait));
      } else {
        failures = 0;
        for (const key of entries) {
          remove(key);
          mine.delete(key);
        }
        const said = await response.text();
        // Of a batch, the gateway takes what is good, and tells of the rest.
        if (!response.ok || said.includes('"errors"')) warn(`refused, of ${entries.length} events: ${said}`);
      }
    } catch {
      wait = backoff();
    }
    for (const key of entries) inFlight.delete(key);
    return wait;
  };

  const flush = async (): Promise<void> => {
    clearTimeout(timer);
    timer = 0;
    if (busy) return schedule(Time.DELAY);
    busy = true;
    let wait = 0;
    const drain = async (): Promise<void> => {
      wait = pause();
      for (let entries; !wait && (entries = next())[0]; ) wait = await send(entries);
    };
    try {
      // One tab at a time, since all take what was left. (Plain http pages have no locks.)
      await navigator.locks.request(scope, drain);
    } catch {
      await drain();
    }
    busy = false;
    if (wait) {
      // What came in meanwhile has set a timer, which would cut the wait short.
      clearTimeout(timer);
      timer = 0;
      schedule(wait);
    }
  };

  /** The page goes: sends what it made, all at once, without waiting for its turn. */
  const leave = (): void => {
    if (pause()) return;
    for (let entries; (entries = next(true))[0]; ) {
      void send(entries, true).then((wait) => wait && schedule(wait));
    }
  };

  addEventListener("online", flush);
  addEventListener("pagehide", leave);
  // A phone that hides a page may never come back to it; where it does, timers may have slept.
  addEventListener("visibilitychange", flush);
  // By then, whatever was here before this page counts as left.
  setTimeout(flush, Limit.LEFT + Time.DELAY);

  return (event) => {
    mine.add(add(prefix, event));
    schedule(Time.DELAY);
  };
};
