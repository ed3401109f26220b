/** What goes wrong is told in the console; it never becomes an exception in the page. */
export const warn = (what: unknown): void => console.warn("headrace:", what);
