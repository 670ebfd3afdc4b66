// Polls whether the gateway and the cloud can be reached, so that nobody has to reload the page.

import { readiness } from "./api.js";

const READY_MS = 15000;
const AWAY_MS = 2000;

/** Calls `onState` with the result of each check; returns a function that checks at once. */
export function watchGateway(onState) {
  let timer = 0;
  let checking = null; // promise of the check in progress, shared by concurrent callers

  async function runCheck() {
    clearTimeout(timer);
    const state = await readiness();
    onState(state);
    timer = setTimeout(check, state.ready ? READY_MS : AWAY_MS);
  }

  function check() {
    checking ??= runCheck().finally(() => (checking = null));
    return checking;
  }

  // Browsers slow down the timers of hidden pages.
  document.addEventListener("visibilitychange", () => document.hidden || check());
  window.addEventListener("online", check);
  check();
  return check;
}
