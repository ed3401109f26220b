// What the types let through and what they do not; `npm run check` compiles it, and nobody runs it.

import { createTracker, type Headrace, type Options } from "headrace.js";

const options: Options = { key: "acme.shop", endpoint: "https://gateway.example" };
const tracker: Headrace = createTracker({ ...options, auto: false, consent: true, domains: "a.example b.example" });

tracker.page();
tracker.page("Front", { a: 1 });
tracker.product({ sku: "J1", price: 9.5, tags: ["new", { deep: null }] });
tracker.category("Jacket", { n: 2 });
tracker.section("Sale");
tracker.addToCart({ sku: "J1" });
tracker.removeFromCart({ sku: "J1" });
tracker.addToFavourites({ sku: "J1" });
tracker.removeFromFavourites({ sku: "J1" });
tracker.order({ order_id: "o1", total: 19 });
tracker.login(42, { email: "a@b.example" });
tracker.register("u1");
tracker.identify(null, { phone: "+4312345" });
tracker.track("Searched", { query: "jacket" });
tracker.consent(true);
tracker.reset();
tracker.push(["track", "Searched", { query: "jacket" }], ["consent", false], ["reset"]);
headrace.track("Searched");
window.headrace.page();

// @ts-expect-error: no key
createTracker({ endpoint: "https://gateway.example" });
// @ts-expect-error: an option that is not there
createTracker({ ...options, domain: "a.example" });
// @ts-expect-error: a category has a name
tracker.category();
// @ts-expect-error: a function is no JSON
tracker.track("Searched", { query: () => "jacket" });
// @ts-expect-error: not a call
tracker.push(["nothing"]);
// @ts-expect-error: yes or no
tracker.consent("yes");
// @ts-expect-error: a person has an id
tracker.login(null);
