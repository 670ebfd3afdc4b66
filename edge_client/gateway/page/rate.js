// The rate slider: a bundle's operating points in the order of what this picture costs at them.

import { $, element } from "./elements.js";
import { bytes } from "./words.js";

/** A slider over `names`, the default first, set to `name` if that is one of them; tells `chosen`. */
export class Rate {
  constructor(names, name, chosen) {
    this.names = names;
    this.name = names.includes(name) ? name : (names[0] ?? null);
    this.bytes = new Map();
    $("rate").max = names.length - 1;
    $("rate").oninput = () => {
      this.name = this.names[$("rate").valueAsNumber];
      this.draw();
      chosen(this.name);
    };
    this.draw();
  }

  /** What the picture costs is known: `measured` are { quality, payload_bytes }. */
  measure(measured) {
    this.bytes = new Map(measured.map((own) => [own.quality, own.payload_bytes]));
    this.names = [...this.names].sort((one, other) => this.bytes.get(one) - this.bytes.get(other));
    this.draw();
  }

  /** There is no picture, or another one. */
  forget() {
    this.bytes.clear();
    this.draw();
  }

  draw() {
    const known = this.names.length > 1 && this.bytes.size === this.names.length;
    $("rate-section").hidden = !known;
    if (!known) return;
    $("rate").value = this.names.indexOf(this.name);
    $("rate").setAttribute("aria-valuetext", `${this.name}, ${bytes(this.bytes.get(this.name))}`);
    $("rate-scale").style.setProperty("--points", this.names.length);
    $("rate-points").replaceChildren(...this.names.map((name) => this.point(name)));
  }

  point(name) {
    const item = element("li", name === this.name ? "chosen" : "");
    const size = element("span", "number", bytes(this.bytes.get(name)));
    item.append(element("span", "", name), size);
    item.dataset.quality = name;
    return item;
  }
}
