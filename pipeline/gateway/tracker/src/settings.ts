// What the page says of its source: the script's data attributes, or the package's options.

/** As far as they were given. */
export interface Settings {
  key?: string;
  endpoint?: string;
  auto?: unknown;
  consent?: unknown;
  domains?: string;
}

/** There is one source a page. */
export let settings: Settings;
/** The prefix of the source's keys in localStorage. */
export let scope: string;
/** The gateway's batch call. */
export let batch: URL;

/** Throws where the endpoint, seen from `base`, is no address. */
export const use = (given: Settings, base?: string): void => {
  settings = given;
  scope = `hr.${given.key}.`;
  batch = new URL((given.endpoint || "").replace(/\/?$/, "/v1/batch"), base);
};
