// localStorage that never throws: where it is missing, blocked or full, this page goes on in memory.

let store: Record<string, string> = {};
try {
  store = localStorage ?? store;
} catch {
  // Blocked by the browser's settings or by a sandboxed frame; or this is no browser.
}

export const get = (key: string): string | undefined => store[key];

/** Keeps the value; an empty one is removed. */
export const set = (key: string, value?: string): void => {
  try {
    if (value) store[key] = value;
    else delete store[key];
  } catch {
    store = { ...store, [key]: value! };
  }
};

/** Every key there is with this prefix, sorted. */
export const keys = (prefix: string): string[] =>
  Object.keys(store)
    .filter((key) => key.startsWith(prefix))
    .sort();
