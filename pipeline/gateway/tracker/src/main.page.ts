// Page views only: <script async src="<gateway>/tracker.page.min.js" data-key="<partner-id>.<source-code>"></script>
// Without the outbox of the full build: it tries again for as long as the page is open.

import { eventsOf } from "./event";
import { start } from "./script";

start((url, { key: writeKey }) => {
  const batch = eventsOf({ type: "page" }, `hr.${writeKey}.`);
  const send = async (wait: number): Promise<void> => {
    try {
      const body = JSON.stringify({ writeKey, sentAt: new Date(), batch });
      // Below 429 it is taken, or refused for good: then the browser's console shows the status.
      if ((await fetch(url, { method: "POST", body, keepalive: true })).status < 429) return;
    } catch {
      // Offline, or the gateway is away.
    }
    setTimeout(send, wait, wait * 2);
  };
  void send(5_000 * (1 + Math.random()));
});
