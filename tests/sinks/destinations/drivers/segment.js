// What Segment's own destinations send of an event: the requests that their code makes, none of which leaves.
// In: {"cases": [{"destination", "action", "settings", "mapping", "event"}]}; out: {"made": [[{"method", "url", "headers", "body"}]]}.
"use strict";

const core = require.resolve("@segment/actions-core");
const place = require.resolve("cross-fetch", { paths: [core] });
const real = require(place);
let made = [];

async function fetch(request, init) {
  const asked = new real.Request(request, init);
  const headers = Object.fromEntries(asked.headers);
  made.push({ method: asked.method, url: asked.url, headers, body: await asked.text() });
  return new real.Response("{}", { status: 200, headers: { "content-type": "application/json" } });
}
require.cache[place].exports = Object.assign(fetch, real, { default: fetch, fetch });
const { Destination, defaultValues } = require(core);

async function main() {
  const { cases } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
  const all = [];
  for (const { destination, action, settings, mapping, event } of cases) {
    made = [];
    const { default: definition } = require(`@segment/action-destinations/dist/destinations/${destination}`);
    const { fields } = definition.actions[action];
    const whole = { ...defaultValues(fields), ...mapping, enable_batching: false };
    await new Destination(definition).executeAction(action, { event, settings, mapping: whole });
    all.push(made);
  }
  process.stdout.write(JSON.stringify({ made: all }));
}
main();
