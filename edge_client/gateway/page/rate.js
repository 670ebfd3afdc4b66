// The rate slider: the bundle's operating points, ordered by the image's payload size.

import { $, element } from "./elements.js";
import { bytes } from "./text.js";

/**
 * A slider over the operating points `names`, of which the first is the default.
 * It starts at `name` if that is one of them, and calls `onChange` with the selected name.
 */
export class Rate {
  constructor(names, name, onChange) {
    this.names = names;
    this.name = names.includes(name) ? name : (names[0] ?? null);
    this.payloadBytes = new Map();
    $("rate").max = names.length - 1;
    $("rate").oninput = () => {
      this.name = this.names[$("rate").valueAsNumber];
      this.draw();
      onChange(this.name);
    };
    this.draw();
  }

  /** Sets the payload sizes of the image: `rates` is a list of { quality, payload_bytes }. */
  setSizes(rates) {
    this.payloadBytes = new Map(rates.map((entry) => [entry.quality, entry.payload_bytes]));
    this.names = [...this.names].sort(
      (one, other) => this.payloadBytes.get(one) - this.payloadBytes.get(other),
    );
    this.draw();
  }

  /** Removes the sizes, as there is no image or another one. */
  clear() {
    this.payloadBytes.clear();
    this.draw();
  }

  draw() {
    const isComplete = this.names.length > 1 && this.payloadBytes.size === this.names.length;
    $("rate-section").hidden = !isComplete;
    if (!isComplete) return;
    const size = bytes(this.payloadBytes.get(this.name));
    $("rate").value = this.names.indexOf(this.name);
    $("rate").setAttribute("aria-valuetext", `${this.name}, ${size}`);
    $("rate-scale").style.setProperty("--points", this.names.length);
    $("rate-points").replaceChildren(...this.names.map((name) => this.point(name)));
  }

  point(name) {
    const item = element("li", name === this.name ? "chosen" : "");
    const size = element("span", "number", bytes(this.payloadBytes.get(name)));
    item.append(element("span", "", name), size);
    item.dataset.quality = name;
    return item;
  }
}
