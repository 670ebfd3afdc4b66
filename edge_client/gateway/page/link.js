// Is the cloud within reach? Looked at all the time, so that nobody has to reload.

import { readiness } from "./api.js";

const READY_MS = 15000;
const AWAY_MS = 2000;

/** Tells `show` what was found; the function that comes back looks at once. */
export function watch(show) {
  let timer = 0;
  let looking = null;

  async function once() {
    clearTimeout(timer);
    const found = await readiness();
    show(found);
    timer = setTimeout(look, found.ready ? READY_MS : AWAY_MS);
  }

  function look() {
    looking ??= once().finally(() => (looking = null));
    return looking;
  }

  document.addEventListener("visibilitychange", () => document.hidden || look());
  window.addEventListener("online", look);
  look();
  return look;
}
