/** Public types of the tracker. */

/** A JSON value; `undefined` members are left out of what is sent. */
export type Json = string | number | boolean | null | undefined | Json[] | { [name: string]: Json };
/** Properties of an event, or traits of a person. */
export type Props = { [name: string]: Json };
/** The person's id in the partner's own system. Sent as text. */
export type UserId = string | number;

/** Calls never throw into the page: what cannot be sent is dropped, with a warning in the console. */
export interface Headrace {
  /** A page view. Sent by itself on load, unless the script carries `data-auto="false"`. */
  page(name?: string, props?: Props): void;
  /** "Product Viewed". */
  product(props: Props): void;
  /** "Category Viewed", with `category` among its properties. */
  category(name: string, props?: Props): void;
  /** "Section Viewed", with `section` among its properties. */
  section(name: string, props?: Props): void;
  /** "Product Added". */
  addToCart(props: Props): void;
  /** "Product Removed". */
  removeFromCart(props: Props): void;
  /** "Product Added to Wishlist". */
  addToFavourites(props: Props): void;
  /** "Product Removed from Wishlist". */
  removeFromFavourites(props: Props): void;
  /** "Order Completed". */
  order(props: Props): void;
  /** Identifies the person, then "Signed In". */
  login(userId: UserId, traits?: Props): void;
  /** Identifies the person, then "Signed Up". */
  register(userId: UserId, traits?: Props): void;
  /**
   * Tells who the person is. The user id is kept for later events and pages; `null` sends traits only.
   * Another user id than the kept one means another person: the anonymous id and the session are renewed first.
   */
  identify(userId: UserId | null, traits?: Props): void;
  /** A custom event. */
  track(name: string, props?: Props): void;
  /** Forgets the person (call it on log-out): user id and session go, the anonymous id is renewed. */
  reset(): void;
  /** Runs buffered calls: `headrace.push(["track", "Searched", { query: "jacket" }])`. */
  push(...calls: Call[]): void;
}

/** The names of the methods that a buffered call can name. */
export type Method = Exclude<keyof Headrace, "push">;
/** A call as the snippet buffers it: the method's name, then its arguments. */
export type Call = { [M in Method]: [method: M, ...args: Parameters<Headrace[M]>] }[Method];

declare global {
  interface Window {
    /** The snippet's buffer until the tracker has loaded, then the tracker. */
    headrace: Headrace;
  }
  /** As `window.headrace`. */
  const headrace: Headrace;
}
