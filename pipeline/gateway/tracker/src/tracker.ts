// The API over one source.

import type { Call as Buffered, Headrace, Method, Props, UserId } from "../headrace";
import { eventsOf, type Call } from "./event";
import { forgetAnonymousId } from "./identity";
import { openQueue } from "./queue";
import { get, remove, set } from "./storage";
import { warn } from "./warn";

/** `url`: the gateway's batch call; `writeKey`: `<partner-id>.<source-code>`. */
export const createTracker = (url: URL, writeKey: string): Headrace => {
  const scope = `hr.${writeKey}.`;
  const user = scope + "u";
  const enqueue = openQueue(url, writeKey, scope);
  const add = (call: Call): void => eventsOf(call, scope).forEach(enqueue);

  const track = (event: string, properties?: Props): void => add({ type: "track", event, properties });
  const named = (event: string) => (properties?: Props) => track(event, properties);

  const reset = (): void => {
    remove(user);
    remove(scope + "s");
    forgetAnonymousId();
  };
  const identify = (userId: UserId | null, traits?: Props): void => {
    const id = "" + (userId ?? "");
    if (id) {
      // An anonymous id stands for one person.
      if ((get(user) || id) != id) reset();
      set(user, id);
    }
    add({ type: "identify", traits });
  };
  const identifyThen = (event: string) => (userId: UserId, traits?: Props) => {
    identify(userId, traits);
    track(event);
  };

  const methods: { [M in Method]: Headrace[M] } = {
    page: (name, props) => add({ type: "page", name, properties: props }),
    product: named("Product Viewed"),
    category: (category, props) => track("Category Viewed", { ...props, category }),
    section: (section, props) => track("Section Viewed", { ...props, section }),
    addToCart: named("Product Added"),
    removeFromCart: named("Product Removed"),
    addToFavourites: named("Product Added to Wishlist"),
    removeFromFavourites: named("Product Removed from Wishlist"),
    order: named("Order Completed"),
    login: identifyThen("Signed In"),
    register: identifyThen("Signed Up"),
    identify,
    track,
    reset,
  };

  const run = (call: Buffered): void => {
    try {
      const [name, ...args] = call;
      (methods[name] as (...args: unknown[]) => void)(...args);
    } catch (error) {
      warn(error);
    }
  };
  const api = { push: (...calls: Buffered[]) => calls.forEach(run) } as Headrace;
  for (const name of Object.keys(methods) as Method[]) {
    api[name] = (...args: unknown[]) => run([name, ...args] as Buffered);
  }
  return api;
};
