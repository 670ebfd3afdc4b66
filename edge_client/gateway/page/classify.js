// The labels of the image, recognised by the gateway's own model; nothing goes to the cloud.

import * as api from "./api.js";
import { $, element, setText } from "./elements.js";
import { explain, milliseconds } from "./text.js";

const PAUSE_MS = 400; // without a keystroke, until edited labels are tried
const SHOWN = 8;

/** The panel for a classifier; `onError` gets errors first and returns true for those it shows. */
export class ClassifyPanel {
  constructor(onError) {
    this.onError = onError;
    this.classifier = null;
    this.image = null;
    this.request = null; // aborts the request in progress
    $("labels").addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.classify(), PAUSE_MS);
    });
  }

  /** Shows the panel for a classifier as `v1/bundle` describes it; null hides it. */
  offer(classifier) {
    if (classifier?.manifest !== this.classifier?.manifest) {
      this.classifier = classifier;
      $("labels").value = classifier ? this.firstSet() : "";
    }
    $("classify-section").hidden = !classifier;
    this.classify();
  }

  /** Recognises another image; null clears the panel. */
  show(image) {
    this.image = image;
    this.classify();
  }

  firstSet() {
    return this.classifier.label_sets[0].labels.join(", ");
  }

  /** The name of the first label set while it is unchanged, as it may be longer than a request. */
  labels() {
    const text = $("labels").value;
    if (text === this.firstSet()) return this.classifier.label_sets[0].name;
    return text
      .split(",")
      .map((label) => label.trim())
      .filter(Boolean);
  }

  async classify() {
    clearTimeout(this.timer);
    this.request?.abort();
    const request = (this.request = new AbortController());
    setText("classify-problem", "");
    $("classes").replaceChildren();
    $("classify-words").textContent = "Choose an image to see what it shows.";
    if (!this.classifier || !this.image) return;
    try {
      const body = { image: this.image.uri, labels: this.labels(), modality: $("modality").value };
      const { labels, model_ms: ms } = await api.classify(body, request.signal);
      if (request.signal.aborted) return;
      $("classes").replaceChildren(...labels.slice(0, SHOWN).map(row));
      $("classify-words").textContent = `Recognised here in ${milliseconds(ms)}; nothing was sent.`;
    } catch (error) {
      if (api.isAbort(error) || request.signal.aborted || this.onError(error)) return;
      const { detail, title } = explain(error);
      setText("classify-problem", detail || title);
    }
  }
}

function row({ label, probability }) {
  const item = element("li");
  const bar = element("meter");
  bar.value = probability;
  bar.setAttribute("aria-label", `Probability of ${label}`);
  item.append(element("span", "", label), bar, element("span", "number", probability.toFixed(2)));
  return item;
}
