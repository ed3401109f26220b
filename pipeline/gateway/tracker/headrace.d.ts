/** Public types of the tracker. */

/** A JSON value; `undefined` members are left out of what is sent. */
export type Json = string | number | boolean | null | undefined | Json[] | { [name: string]: Json };
/** Properties of an event, or traits of a person. */
export type Props = { [name: string]: Json };
/** The person's id in the partner's own system. Sent as text. */
export type UserId = string | number;

/** Calls never throw into the page: what cannot be sent is dropped, with a warning in the console. */
export interface Headrace {
  /**
   * A page view. Sent by itself on load and where the page's script shows another address (`history.pushState`, back),
   * unless the script carries `data-auto="false"`.
   */
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
  /**
   * What the visitor has decided. `false` forgets the person and all that has not been sent, and from then on nothing is
   * recorded; `true` also makes the calls that waited (`data-consent`). Kept for later pages.
   */
  consent(granted: boolean): void;
  /** Runs buffered calls: `headrace.push(["track", "Searched", { query: "jacket" }])`. */
  push(...calls: Call[]): void;
}

/** The names of the methods that a buffered call can name. */
export type Method = Exclude<keyof Headrace, "push">;
/** A call as the snippet buffers it: the method's name, then its arguments. */
export type Call = { [M in Method]: [method: M, ...args: Parameters<Headrace[M]>] }[Method];

/** What the package's `createTracker` takes; the script's data attributes are the same. */
export interface Options {
  /** `<partner-id>.<source-code>`. */
  key: string;
  /** The gateway's address. */
  endpoint: string;
  /** `false`: no page views by themselves; the visit starts with the first call. */
  auto?: boolean;
  /** `true`: nothing is kept or sent before `consent(true)`. */
  consent?: boolean;
  /** The partner's other sites, as hosts with a space between: a click on a link to one takes the anonymous id along. */
  domains?: string;
}

/**
 * Starts the tracker of a page, in place of the script: call it once. Throws a TypeError where `endpoint` is no address.
 * For the browser alone; importing the package does nothing, so a server may.
 */
export function createTracker(options: Options): Headrace;

declare global {
  interface Window {
    /** The snippet's buffer until the tracker has loaded, then the tracker. */
    headrace: Headrace;
  }
  /** As `window.headrace`. */
  const headrace: Headrace;
}
