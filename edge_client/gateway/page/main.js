// The page's state and events: the image, the conversation, the rate and the gateway's state.

import * as api from "./api.js";
import { ClassifyPanel } from "./classify.js";
import { Conversation } from "./conversation.js";
import { $, element, setText } from "./elements.js";
import { showBytes, showTimes } from "./figures.js";
import { listenForImages, readImage, UnusableFile } from "./image_input.js";
import { hideMap, showMap } from "./index_map.js";
import { watchGateway } from "./link.js";
import { Rate } from "./rate.js";
import { explain } from "./text.js";

let bundle = null; // null until the gateway has answered
let starting = null; // promise while the bundle is requested
let rate = null;
let image = null;
let conversation = new Conversation();
let lastSplit = null; // `split` of the last answer
let answering = null; // aborts the answer in progress
let mapping = null; // aborts the index map in progress
const panel = new ClassifyPanel(handleError);
let selection = 0; // counts selected files: a newer one supersedes those still being read

async function start() {
  try {
    bundle = await api.bundle();
  } catch (error) {
    handleError(error);
    return;
  }
  if (isNoticeAbout("key")) $("notice").hidden = true;
  const names = bundle.qualities.map((quality) => quality.name);
  rate = new Rate(names, rate?.name, drawMap);
  offerModalities([...bundle.modalities, ...(bundle.classifier?.modalities ?? [])]);
  panel.offer(bundle.classifier);
  if (image) showCosts();
}

/** Offers what cameras may measure, without repetitions, where there is a choice. */
function offerModalities(names) {
  const select = $("modality");
  const chosen = select.value;
  const distinct = [...new Set(names)];
  select.replaceChildren(...distinct.map((name) => element("option", "", name)));
  if (distinct.includes(chosen)) select.value = chosen;
  $("modality-choice").hidden = distinct.length < 2;
}

function showGatewayState({ gateway, ready, message }) {
  const state = ready ? "ready" : gateway ? "the cloud is not ready" : "the gateway is away";
  if ($("state").textContent !== state) $("state").textContent = state;
  $("state").dataset.state = ready ? "ready" : "away";
  if (!gateway) bundle = null; // it may restart with another bundle
  if (isNoticeAbout("key")) return;
  if (gateway && !bundle) {
    starting ??= start().finally(() => {
      starting = null;
    });
  }
  if (ready) {
    if (isNoticeAbout("link")) $("notice").hidden = true;
    return;
  }
  const [title, consequence] = gateway
    ? ["The cloud is not ready.", "Questions have to wait; pictures can still be chosen and encoded."]
    : ["The gateway does not answer.", "Is edge-client serve still running where this page is from?"];
  const retry = "This page looks again every two seconds and goes on by itself.";
  showNotice("link", title, `${consequence} ${retry}`, message);
}

const isNoticeAbout = (topic) => !$("notice").hidden && $("notice").dataset.about === topic;

function showNotice(topic, title, text, detail = "") {
  // Screen readers read an alert aloud whenever it changes: set only what is different.
  if ($("notice-title").textContent !== title) setText("notice-title", title);
  if ($("notice-words").textContent !== text) setText("notice-words", text);
  if ($("notice-detail").textContent !== detail) setText("notice-detail", detail);
  $("give-key").hidden = topic !== "key";
  $("notice").dataset.about = topic;
  $("notice").hidden = false;
}

/** Handles errors that concern the whole page; true if the caller must not show the error, too. */
function handleError(error) {
  if (error.code === "invalid_api_key") {
    requestKey();
    return true;
  }
  if (error instanceof api.GatewayAway || error.code === "cloud_unreachable") checkGateway();
  return false;
}

// Image

async function selectFile(file) {
  const current = ++selection;
  setText("image-problem", "");
  let opened;
  try {
    await starting; // the bundle has the limit of a request
    opened = await readImage(file, bundle?.max_request_bytes ?? Infinity);
  } catch (error) {
    if (!(error instanceof UnusableFile)) throw error;
    setText("image-problem", error.message);
    return;
  }
  if (current !== selection) return URL.revokeObjectURL(opened.url);
  reset();
  image = opened;
  panel.show(image);
  const preview = $("preview");
  preview.src = image.url;
  preview.alt = `The picture that you chose, ${image.name}`;
  $("chosen-words").textContent = image.name;
  $("chooser").hidden = true;
  $("chosen").hidden = false;
  $("question").focus();
  preview.hidden = false;
  // Not every browser displays every format that the gateway accepts.
  await preview.decode().catch(() => (preview.hidden = true));
  if (image === opened && bundle) await showCosts();
}

function reset() {
  if (image) URL.revokeObjectURL(image.url);
  image = null;
  forgetAnswers();
  $("preview").removeAttribute("src");
  $("chooser").hidden = false;
  $("chosen").hidden = true;
  panel.show(null);
}

/** Ends whatever is about the image as it was sent so far. */
function forgetAnswers() {
  answering?.abort();
  mapping?.abort();
  lastSplit = null;
  conversation = new Conversation();
  setText("image-problem", "");
  setText("question-problem", "");
  rate?.clear();
  hideMap();
  showBytes(null, null, conversation);
  showTimes(null);
}

/** Shows the payload size at each rate, and the index map at the selected one. */
async function showCosts() {
  const requested = image;
  await drawMap();
  try {
    const request = { image: requested.uri, modality: $("modality").value };
    const { image: sizes, rates } = await api.rates(request, mapping.signal);
    if (image !== requested) return; // another image was selected meanwhile
    requested.sizes = sizes;
    rate.setSizes(rates);
    showBytes(image, lastSplit, conversation);
  } catch (error) {
    if (image === requested) handleError(error);
  }
}

async function drawMap() {
  mapping?.abort();
  const controller = (mapping = new AbortController());
  const requested = image;
  try {
    const request = { image: requested.uri, quality: rate.name, modality: $("modality").value };
    const map = await api.indexMap(request, controller.signal);
    if (image === requested && !controller.signal.aborted) showMap(map, $("preview"));
  } catch (error) {
    if (api.isAbort(error) || image !== requested || handleError(error)) return;
    const { title, advice, detail } = explain(error);
    const isInvalid = error.status === 400 || error.status === 413;
    if (isInvalid) setText("image-problem", `${title} ${advice} ${detail}`);
    else hideMap(`${title} ${detail}`);
  }
}

// Questions

async function ask() {
  const question = $("question").value.trim();
  setText("question-problem", "");
  if (!image) return refuse("Choose a picture first.", $("choose"));
  if (!question) return refuse("Type a question first.", $("question"));
  if (!bundle) return refuse("The gateway has not answered yet. Try again in a moment.", $("question"));
  const controller = (answering = new AbortController());
  const current = conversation;
  const exchange = current.begin(question);
  $("question").value = "";
  $("ask").textContent = "Stop";
  $("asking").scrollIntoView({ block: "nearest" });
  let answered = false;
  try {
    const request = {
      model: bundle.model,
      messages: current.messages(question, image.uri),
      modality: $("modality").value,
      ...(rate.name && { quality: rate.name }),
    };
    for await (const { choices, split } of api.chat(request, controller.signal)) {
      exchange.add(choices[0]?.delta.content);
      if (split) {
        exchange.end(split);
        answered = true;
        if (current === conversation) showSplit(split);
      }
    }
  } catch (error) {
    if (answered) return;
    if (api.isAbort(error)) exchange.stop();
    else exchange.fail(error);
    if (current === conversation && !$("question").value) $("question").value = question;
    if (!api.isAbort(error)) handleError(error);
  } finally {
    if (answering === controller) {
      answering = null;
      $("ask").textContent = "Ask";
    }
    $("asking").scrollIntoView({ block: "nearest" });
  }
}

function showSplit(split) {
  lastSplit = split;
  showBytes(image, split, conversation);
  showTimes(split);
}

function refuse(text, target) {
  setText("question-problem", text);
  target.focus();
}

$("asking").addEventListener("submit", (event) => {
  event.preventDefault();
  if (answering) answering.abort();
  else ask();
});
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!answering) ask();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) answering?.abort();
});
$("modality").addEventListener("change", async () => {
  forgetAnswers(); // they were about what another camera would see
  panel.show(image);
  if (image && bundle) await showCosts();
});
$("new-image").addEventListener("click", () => {
  selection++;
  reset();
  $("choose").focus();
});
listenForImages(selectFile, (text) => setText("image-problem", text));

// API key

function requestKey() {
  const wasRejected = api.key.get();
  const text = wasRejected ? "The one that was given is not right." : "Questions have to wait for it.";
  showNotice("key", "This gateway wants a key.", text);
  $("key-words").textContent = wasRejected
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

reset();
const checkGateway = watchGateway(showGatewayState);
