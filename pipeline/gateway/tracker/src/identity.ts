// Random ids, and the anonymous id.

import { get, set } from "./storage";

/** 128 random bits as text of digits and hyphens (`crypto.randomUUID` is missing on plain http pages). */
export const random = (): string => crypto.getRandomValues(new Uint32Array(4)).join("-");

/**
 * The anonymous id: the cookie's, else localStorage's, else a new one, kept in both. The cookie is written only where
 * there is none: a browser that caps script-set cookies would shorten the life of a server-set one. With `given`, it is
 * that one from now on; an empty one is forgotten.
 */
export const anonymousId = (given?: string): string => {
  let id = given ?? (get("hr_aid") || random());
  try {
    // The gateway may have set it; one that is not of this shape is not adopted.
    const cookie = given == null && document.cookie.match(/\bhr_aid=([\w-]{8,64})(;|$)/);
    if (cookie) id = cookie[1]!;
    else
      document.cookie = `hr_aid=${id};max-age=${id ? 31536e3 : 0};path=/;samesite=lax;secure`;
  } catch {
    // A sandboxed frame has no cookies.
  }
  set("hr_aid", id);
  return id;
};
