// Page views only: <script async src="<gateway>/tracker.page.min.js" data-key="<partner-id>.<source-code>"></script>
// Without the queue of the full build: it tries again for as long as the page is open.

import { eventsOf } from "./event";
import { start } from "./script";
import { batch as url, scope, settings } from "./settings";
import { get } from "./storage";

start(() => {
  // "0": refused. Who is to be asked first has to have agreed, in a page with the full build.
  if (+(get(scope + "c") || !settings.consent)) {
    const batch = eventsOf({ type: "page" })();
    const send = async (wait: number): Promise<void> => {
      try {
        const body = JSON.stringify({ writeKey: settings.key, sentAt: new Date(), batch });
        // Below 429 it is taken, or refused for good: then the browser's console shows the status.
        if ((await fetch(url, { method: "POST", body, keepalive: true })).status < 429) return;
      } catch {
        // Offline, or the gateway is away.
      }
      setTimeout(send, wait, wait * 2);
    };
    void send(5_000);
  }
});
