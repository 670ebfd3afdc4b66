// What left the machine, beside the picture's size, and where the time went.

import { $, element } from "./elements.js";
import { bytes, milliseconds, times } from "./words.js";

/** The bytes of the last question; `split` null before the first. */
export function showBytes(picture, split, conversation) {
  const sent = split?.bytes_sent ?? 0;
  $("sent").value = sent;
  $("sent").textContent = bytes(sent);
  $("sent-words").textContent = split ? sentWords(split) : "Nothing yet.";
  const questions = conversation.turns.length;
  const asked = questions === 1 ? "1 question" : `${questions} questions`;
  $("bytes-total").textContent =
    questions > 1 ? `This conversation: ${asked}, ${bytes(conversation.sentBytes)}.` : "";

  const image = split?.image ?? picture?.image;
  const rows = [];
  if (image) {
    const [width, height] = image.jpeg_size;
    const jpeg = `The same picture as JPEG, ${width} x ${height}, quality 90`;
    rows.push(
      ["sent", "This question", sent, split?.payload_bytes ?? 0],
      ["jpeg", jpeg, image.jpeg_bytes],
      ["file", `As chosen: ${picture.kind}, ${image.width} x ${image.height}`, image.file_bytes],
    );
  }
  const largest = Math.max(...rows.map((row) => row[2]));
  $("sizes").replaceChildren(...rows.flatMap((row) => sizeRow(row, largest, sent)));
}

function sentWords({ payload_bytes: payload, bytes_sent: sent, image_held: held }) {
  if (held) return "The cloud still holds the picture: 16 bytes named it.";
  return `${bytes(payload)} are the picture, ${bytes(sent - payload)} the question and the messages' frames.`;
}

function sizeRow([id, words, size, ofPicture], largest, sent) {
  const value = element("data", "number", bytes(size));
  value.value = size;
  value.id = `size-${id}`;
  const bar = element("div", "bar");
  bar.append(part(`${id} size`, ofPicture ?? size, largest), part("frames size", size - (ofPicture ?? size), largest));
  const term = element("dt", "", words);
  const told = element("dd");
  told.append(value);
  if (id !== "sent" && sent) told.append(element("span", "note", ` ${times(size / sent)} times as many`));
  told.append(bar);
  return [term, told];
}

function part(className, size, whole) {
  const made = element("span", className);
  made.style.setProperty("--share", `${(100 * size) / whole}%`);
  made.hidden = !(size > 0);
  return made;
}

/** The stages of the last question; null: there is none. */
export function showTimes(split) {
  $("time-bar").hidden = !split;
  $("time-legend").replaceChildren();
  if (!split) {
    $("times-words").textContent = "Ask a question to see it.";
    return;
  }
  // Receiving lasts until the edge has encoded and sent: it is no work of the cloud's.
  const working = split.cloud.filter(({ stage }) => stage !== "receive");
  const receive = split.cloud.find(({ stage }) => stage === "receive");
  const edge = sum(split.edge);
  const cloud = sum(working);
  const earlier = split.edge.length > 0 && receive !== undefined && receive.ms < edge;
  const rest = Math.max(0, split.total_ms - cloud - (earlier ? 0 : edge));
  const sides = [
    ["edge", "Edge", split.edge, edge],
    ["link", "Link and waiting", [{ stage: "link and waiting", ms: rest }], rest],
    ["cloud", "Cloud", working, cloud],
  ];

  const whole = edge + rest + cloud;
  const segments = sides.flatMap(([side, , stages]) =>
    stages.map(({ stage, ms }, step) => {
      const made = part(side, ms, whole);
      made.style.setProperty("--step", step);
      made.title = `${side}: ${stage}, ${milliseconds(ms)}`;
      return made;
    }),
  );
  $("time-bar").replaceChildren(...segments);
  const told = sides.map(([, name, , ms]) => `${name} ${milliseconds(ms)}`).join(", ");
  $("time-bar").setAttribute("aria-label", told);
  const [left, right] = [element("div"), element("div")];
  left.append(legend(...sides[0]), legend(...sides[1]));
  right.append(legend(...sides[2]));
  $("time-legend").replaceChildren(left, right);
  $("times-words").textContent =
    `First word after ${milliseconds(split.first_token_ms)}, whole answer after ` +
    `${milliseconds(split.total_ms)}.` +
    (earlier ? " The edge's part was done before the question was asked." : "") +
    (split.image_held ? " The edge had nothing to encode." : "");
}

function legend(side, name, stages, ms) {
  const made = element("div", "side-legend");
  const list = element("ul");
  const head = element("p");
  head.append(element("strong", "", name), " ", element("span", "number", milliseconds(ms)));
  if (side === "link") head.prepend(swatch(side, 0));
  else list.append(...stages.map((own, step) => stageRow(side, own, step)));
  made.append(head, list);
  return made;
}

function stageRow(side, { stage, ms }, step) {
  const item = element("li");
  item.append(swatch(side, step), element("span", "", stage), element("span", "number", milliseconds(ms)));
  return item;
}

function swatch(side, step) {
  const made = element("span", `swatch ${side}`);
  made.style.setProperty("--step", step);
  return made;
}

const sum = (stages) => stages.reduce((total, { ms }) => total + ms, 0);
