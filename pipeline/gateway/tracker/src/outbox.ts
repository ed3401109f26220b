// Events wait in localStorage until the gateway has them, each in an entry of its own, so that tabs of one site never
// overwrite each other's. An entry goes when the gateway has answered, and no sooner: what a closed page may or may not
// have delivered is sent again by another page, and deduplicated by its message id.

import type { Event } from "./event";
import { get, keys, remove, set } from "./storage";

export const enum Limit {
  /** Bytes of one event; the gateway takes none that is larger than 32 KB. */
  EVENT = 32_000,
  /** Characters of events in a request: at most 60 KB of UTF-8, so that keepalive takes it (64 KiB). */
  REQUEST = 20_000,
  /** Events kept while the gateway is away; the oldest go first. */
  WAITING = 500,
  /** Milliseconds that an event is kept: the gateway recognises a repeat for 24 hours, no longer. */
  AGE = 86_400_000,
  /** Milliseconds after which other pages send it too. */
  LEFT = 5_000,
}

let stamp = 0;

/** Adds an event; returns its entry. Throws what JSON.stringify throws. */
export const add = (prefix: string, event: Event): string => {
  const json = JSON.stringify(event);
  if (new Blob([json]).size > Limit.EVENT) throw "event too large";
  // Eight base-36 digits of rising milliseconds come first (until 2059), so that entries sort by age.
  stamp = Math.max(Date.now(), stamp + 1);
  const key = prefix + stamp.toString(36) + event.messageId;
  set(key, json);
  return key;
};

/**
 * The oldest of the entries `wanted` that fit into one request. Drops what is outdated. `left`: the entry is so old
 * that the page which made it is gone, or has failed to send it so far.
 */
export const take = (prefix: string, wanted: (key: string, left: boolean) => boolean): string[] => {
  const now = Date.now();
  const waiting = keys(prefix);
  let length = 0;
  return waiting.filter((key, i) => {
    const age = now - parseInt(key.slice(prefix.length, prefix.length + 8), 36);
    if (age > Limit.AGE || i < waiting.length - Limit.WAITING) remove(key);
    else if (wanted(key, age > Limit.LEFT)) {
      const first = !length;
      length += get(key)!.length;
      return first || length <= Limit.REQUEST;
    }
    return false;
  });
};

/** The request's body for these entries. */
export const bodyOf = (writeKey: string, entries: string[]): string =>
  `{"writeKey":${JSON.stringify(writeKey)},"sentAt":"${new Date().toISOString()}","batch":[${entries.map(get)}]}`;
