// The page: puts pictures, questions and what comes of them together.

import * as api from "./api.js";
import { Conversation } from "./conversation.js";
import { $, say } from "./elements.js";
import { showBytes, showTimes } from "./figures.js";
import { hideMap, showMap } from "./index_map.js";
import { watch } from "./link.js";
import { offerPictures, openPicture, Unusable } from "./picture.js";
import { Rate } from "./rate.js";
import { explain } from "./words.js";

let bundle = null;
let starting = null; // until the bundle is known
let rate = null;
let picture = null;
let conversation = new Conversation();
let lastSplit = null;
let running = null; // aborts the answer on its way
let mapping = null; // aborts the index map on its way
let choice = 0;

async function start() {
  try {
    bundle = await api.bundle();
  } catch (error) {
    failed(error);
    return;
  }
  if (about("key")) $("notice").hidden = true;
  const names = bundle.qualities.map((quality) => quality.name);
  rate = new Rate(names, rate?.name, drawMap);
  if (picture) weigh();
}

function showLink({ gateway, ready, words }) {
  const state = ready ? "ready" : gateway ? "the cloud is not ready" : "the gateway is away";
  if ($("state").textContent !== state) $("state").textContent = state;
  $("state").dataset.state = ready ? "ready" : "away";
  if (!gateway) bundle = null; // it may come back with another
  if (about("key")) return;
  if (gateway && !bundle) {
    starting ??= start().finally(() => {
      starting = null;
    });
  }
  if (ready) {
    if (about("link")) $("notice").hidden = true;
    return;
  }
  const [title, what] = gateway
    ? ["The cloud is not ready.", "Questions have to wait; pictures can still be chosen and encoded."]
    : ["The gateway does not answer.", "Is edge-client serve still running where this page is from?"];
  notice("link", title, `${what} This page looks again every two seconds and goes on by itself.`, words);
}

const about = (what) => !$("notice").hidden && $("notice").dataset.about === what;

function notice(about, title, words, detail = "") {
  // An alert is read aloud when it changes, so it changes only when there is news.
  if ($("notice-title").textContent !== title) say("notice-title", title);
  if ($("notice-words").textContent !== words) say("notice-words", words);
  if ($("notice-detail").textContent !== detail) say("notice-detail", detail);
  $("give-key").hidden = about !== "key";
  $("notice").dataset.about = about;
  $("notice").hidden = false;
}

/** What concerns the whole page: no key, or no gateway. Anything else is told where it happened. */
function failed(error) {
  if (error.code === "invalid_api_key") {
    askKey();
    return true;
  }
  if (error instanceof api.GatewayAway || error.code === "cloud_unreachable") lookAtLink();
  return false;
}

// Picture

async function take(file) {
  const own = ++choice;
  say("picture-problem", "");
  let opened;
  try {
    await starting; // else it is not known yet what the gateway takes
    opened = await openPicture(file, bundle?.max_request_bytes ?? Infinity);
  } catch (error) {
    if (!(error instanceof Unusable)) throw error;
    say("picture-problem", error.message);
    return;
  }
  if (own !== choice) return URL.revokeObjectURL(opened.url);
  forget();
  picture = opened;
  const preview = $("preview");
  preview.src = picture.url;
  preview.alt = `The picture that you chose, ${picture.name}`;
  $("chosen-words").textContent = picture.name;
  $("chooser").hidden = true;
  $("chosen").hidden = false;
  $("question").focus();
  preview.hidden = false;
  await preview.decode().catch(() => (preview.hidden = true)); // not every browser shows every format
  if (picture === opened && bundle) await weigh();
}

function forget() {
  running?.abort();
  mapping?.abort();
  if (picture) URL.revokeObjectURL(picture.url);
  picture = null;
  lastSplit = null;
  conversation = new Conversation();
  $("preview").removeAttribute("src");
  $("chooser").hidden = false;
  $("chosen").hidden = true;
  say("picture-problem", "");
  say("question-problem", "");
  rate?.forget();
  hideMap();
  showBytes(null, null, conversation);
  showTimes(null);
}

/** What the picture costs at each rate, and what it becomes at the one that is set. */
async function weigh() {
  const own = picture;
  await drawMap();
  try {
    const { image, rates } = await api.rates(own.uri, mapping.signal);
    if (picture !== own) return;
    own.image = image;
    rate.measure(rates);
    showBytes(picture, lastSplit, conversation);
  } catch (error) {
    if (picture === own) failed(error);
  }
}

async function drawMap() {
  mapping?.abort();
  const abort = (mapping = new AbortController());
  const own = picture;
  try {
    const map = await api.indexMap(own.uri, rate.name, abort.signal);
    if (picture === own && !abort.signal.aborted) showMap(map, $("preview"));
  } catch (error) {
    if (api.isAbort(error) || picture !== own || failed(error)) return;
    const { title, advice, detail } = explain(error);
    if (error.status === 400 || error.status === 413) say("picture-problem", `${title} ${advice} ${detail}`);
    else hideMap(`${title} ${detail}`);
  }
}

// Questions

async function ask() {
  const question = $("question").value.trim();
  say("question-problem", "");
  if (!picture) return refuse("Choose a picture first.", $("choose"));
  if (!question) return refuse("Type a question first.", $("question"));
  if (!bundle) return refuse("The gateway has not answered yet. Try again in a moment.", $("question"));
  const own = (running = new AbortController());
  const asked = conversation;
  const exchange = asked.begin(question);
  $("question").value = "";
  $("ask").textContent = "Stop";
  $("asking").scrollIntoView({ block: "nearest" });
  let answered = false;
  try {
    const request = {
      model: bundle.model,
      messages: asked.messages(question, picture.uri),
      ...(rate.name && { quality: rate.name }),
    };
    for await (const { choices, split } of api.chat(request, own.signal)) {
      exchange.add(choices[0]?.delta.content);
      if (split) {
        exchange.end(split);
        answered = true;
        if (asked === conversation) show(split);
      }
    }
  } catch (error) {
    if (answered) return;
    if (api.isAbort(error)) exchange.stop();
    else exchange.fail(error);
    if (asked === conversation && !$("question").value) $("question").value = question;
    if (!api.isAbort(error)) failed(error);
  } finally {
    if (running === own) {
      running = null;
      $("ask").textContent = "Ask";
    }
    $("asking").scrollIntoView({ block: "nearest" });
  }
}

function show(split) {
  lastSplit = split;
  showBytes(picture, split, conversation);
  showTimes(split);
}

function refuse(words, where) {
  say("question-problem", words);
  where.focus();
}

$("asking").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) running.abort();
  else ask();
});
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!running) ask();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) running?.abort();
});
$("new-picture").addEventListener("click", () => {
  choice++;
  forget();
  $("choose").focus();
});
offerPictures(take, (words) => say("picture-problem", words));

// The key

function askKey() {
  const given = api.key.get();
  const what = given ? "The one that was given is not right." : "Questions have to wait for it.";
  notice("key", "This gateway wants a key.", what);
  $("key-words").textContent = given
    ? "The key that was given is not right. Please try again."
    : "Whoever runs it has set one. It is kept until this tab is closed.";
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

$("give-key").addEventListener("click", () => $("key-dialog").showModal());
$("key-cancel").addEventListener("click", () => $("key-dialog").close());
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.key.set($("key").value);
  $("key").value = "";
  $("key-dialog").close();
  start();
});

forget();
const lookAtLink = watch(showLink);
