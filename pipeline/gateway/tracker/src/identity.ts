// Random ids, and the anonymous id.

import { get, remove, set } from "./storage";

const ANONYMOUS = "hr_aid";
// The gateway may have set the cookie; one that is not of this shape is not adopted.
const COOKIE = /(^| )hr_aid=([\w-]{8,64})(;|$)/;

/** 128 random bits as text of digits and hyphens (`crypto.randomUUID` is missing on plain http pages). */
export const random = (): string => crypto.getRandomValues(new Uint32Array(4)).join("-");

/**
 * The anonymous id: the cookie's, else localStorage's, else a new one, kept in both. The cookie is written only
 * where there is none: a browser that caps script-set cookies would shorten the life of a server-set one.
 */
export const anonymousId = (): string => {
  let id = get(ANONYMOUS) || random();
  try {
    const cookie = COOKIE.exec(document.cookie);
    if (cookie) id = cookie[2]!;
    else document.cookie = `${ANONYMOUS}=${id};max-age=31536000;path=/;samesite=lax${isSecureContext ? ";secure" : ""}`;
  } catch {
    // A sandboxed frame has no cookies.
  }
  set(ANONYMOUS, id);
  return id;
};

/** The next anonymous id will be a new one. */
export const forgetAnonymousId = (): void => {
  remove(ANONYMOUS);
  try {
    document.cookie = ANONYMOUS + "=;max-age=0;path=/";
  } catch {
    // As above.
  }
};
