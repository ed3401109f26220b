// <script async src="<gateway>/tracker.min.js" data-key="<partner-id>.<source-code>"></script>

import type { Call } from "../headrace";
import { load } from "./load";
import { start } from "./script";
import { api } from "./tracker";

start(() => {
  const buffer = window.headrace as unknown as Call[] | { push?: unknown } | undefined;
  // Included twice: the first one stays. (An element with this id is neither buffer nor tracker.)
  if (buffer?.push && !Array.isArray(buffer)) return;
  window.headrace = api;
  load();
  if (buffer?.push) {
    api.push(...(buffer as Call[]));
    // A page may have kept the buffer.
    buffer.push = api.push;
  }
});
