// The package's entry.

import type { Headrace, Options } from "../headrace";
import { load } from "./load";
import { use } from "./settings";
import { api } from "./tracker";

export const createTracker = (options: Options): Headrace => {
  use(options);
  load();
  return api;
};
