// The API.

import type { Call as Buffered, Headrace, Props, UserId } from "../headrace";
import { agreed, consent, forget } from "./consent";
import { eventsOf, type Call } from "./event";
import { enqueue } from "./queue";
import { scope } from "./settings";
import { get, set } from "./storage";
import { guarded } from "./warn";

const reset = (): void => forget([scope + "u", scope + "s"]);

const add = (call: Call): void => {
  const make = eventsOf(call);
  agreed(() => make().forEach(enqueue));
};
export const track = (event: string, properties?: Props): void => add({ type: "track", event, properties });
const named = (event: string) => (properties?: Props) => track(event, properties);
const identified = (event?: string) => (userId: UserId | null, traits?: Props) => {
  const id = "" + (userId ?? "");
  agreed(() => {
    if (id) {
      // An anonymous id stands for one person.
      if ((get(scope + "u") || id) != id) reset();
      set(scope + "u", id);
    }
  });
  add({ type: "identify", traits });
  if (event) track(event);
};

export const api: Headrace = {
  page: (name, properties) => add({ type: "page", name, properties }),
  product: named("Product Viewed"),
  category: (category, props) => track("Category Viewed", { ...props, category }),
  section: (section, props) => track("Section Viewed", { ...props, section }),
  addToCart: named("Product Added"),
  removeFromCart: named("Product Removed"),
  addToFavourites: named("Product Added to Wishlist"),
  removeFromFavourites: named("Product Removed from Wishlist"),
  order: named("Order Completed"),
  login: identified("Signed In"),
  register: identified("Signed Up"),
  identify: identified(),
  track,
  reset: () => agreed(reset),
  consent,
  push: (...calls) =>
    calls.forEach(guarded(([name, ...args]: Buffered) => (api[name] as (...args: unknown[]) => void)(...args))),
};
for (const name in api) api[name as "reset"] = guarded(api[name as "reset"]);
