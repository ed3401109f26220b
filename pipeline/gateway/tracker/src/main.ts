// <script async src="<gateway>/tracker.min.js" data-key="<partner-id>.<source-code>"></script>

import type { Call } from "../headrace";
import { start } from "./script";
import { createTracker } from "./tracker";

start((url, { key, auto }) => {
  if (!key) throw 'the script has no data-key="<partner-id>.<source-code>"';
  const buffer = window.headrace as unknown as Call[] | { push?: unknown } | undefined;
  const buffered = Array.isArray(buffer);
  // Included twice: the first one stays. (An element with this id is neither.)
  if (buffer?.push && !buffered) return;
  const tracker = (window.headrace = createTracker(url, key));
  if (auto != "false") tracker.page();
  if (buffered) {
    tracker.push(...buffer);
    // A page may have kept the buffer.
    buffer.push = tracker.push as (...calls: Call[]) => number;
  }
});
