// localStorage that never throws: where it is missing, blocked or full, this page goes on in memory.

let store: Record<string, string> = {};
try {
  store = localStorage ?? store;
} catch {
  // Blocked by the browser's settings or by a sandboxed frame.
}

export const get = (key: string): string | undefined => store[key];

export const set = (key: string, value: string): void => {
  try {
    store[key] = value;
  } catch {
    store = { ...store, [key]: value };
  }
};

export const remove = (key: string): void => {
  delete store[key];
};

/** Every key there is with this prefix, sorted. */
export const keys = (prefix: string): string[] =>
  Object.keys(store)
    .filter((key) => key.startsWith(prefix))
    .sort();
