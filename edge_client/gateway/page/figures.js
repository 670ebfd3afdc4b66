// The bytes sent, compared with the size of the image, and the time of each stage.

import { $, element } from "./elements.js";
import { bytes, milliseconds, times } from "./text.js";

/** Shows the bytes of the last question; `split` is null before the first. */
export function showBytes(image, split, conversation) {
  const sent = split?.bytes_sent ?? 0;
  $("sent").value = sent;
  $("sent").textContent = bytes(sent);
  $("sent-words").textContent = split ? sentText(split) : "Nothing yet.";
  const questions = conversation.turns.length;
  $("bytes-total").textContent =
    questions > 1
      ? `This conversation: ${questions} questions, ${bytes(conversation.sentBytes)}.`
      : "";

  const sizes = split?.image ?? image?.sizes;
  const rows = []; // id, description, bytes, and for a question the bytes of its payload
  if (sizes) {
    const [width, height] = sizes.jpeg_size;
    const jpeg = `The same picture as JPEG, ${width} x ${height}, quality 90`;
    rows.push(
      ["sent", "This question", sent, split?.payload_bytes ?? 0],
      ["jpeg", jpeg, sizes.jpeg_bytes],
      ["file", `As chosen: ${image.format}, ${sizes.width} x ${sizes.height}`, sizes.file_bytes],
    );
  }
  const largest = Math.max(...rows.map((row) => row[2]));
  $("sizes").replaceChildren(...rows.flatMap((row) => sizeRow(row, largest, sent)));
}

function sentText({ payload_bytes: payload, bytes_sent: sent, image_held: isCached }) {
  if (isCached) return "The cloud still holds the picture: 16 bytes named it.";
  return `${bytes(payload)} are the picture, ${bytes(sent - payload)} the question and the messages' frames.`;
}

function sizeRow([id, description, size, payloadSize = size], largest, sent) {
  const value = element("data", "number", bytes(size));
  value.value = size;
  value.id = `size-${id}`;
  const bar = element("div", "bar");
  bar.append(
    barSegment(`${id} size`, payloadSize, largest),
    barSegment("frames size", size - payloadSize, largest),
  );
  const term = element("dt", "", description);
  const definition = element("dd");
  definition.append(value);
  if (id !== "sent" && sent) {
    definition.append(element("span", "note", ` ${times(size / sent)} times as many`));
  }
  definition.append(bar);
  return [term, definition];
}

function barSegment(className, size, total) {
  const segment = element("span", className);
  segment.style.setProperty("--share", `${(100 * size) / total}%`);
  segment.hidden = !(size > 0);
  return segment;
}

/** Shows the stages of the last question; `split` is null if there is none. */
export function showTimes(split) {
  $("time-bar").hidden = !split;
  $("time-legend").replaceChildren();
  if (!split) {
    $("times-words").textContent = "Ask a question to see it.";
    return;
  }
  // The cloud's stage "receive" includes waiting for the edge to encode and send: not its work.
  const cloudStages = split.cloud.filter(({ stage }) => stage !== "receive");
  const receive = split.cloud.find(({ stage }) => stage === "receive");
  const edgeMs = sum(split.edge);
  const cloudMs = sum(cloudStages);
  // An encoding longer than that wait ran before the question: it is not part of `total_ms`.
  const encodedBefore = split.edge.length > 0 && receive !== undefined && receive.ms < edgeMs;
  const linkMs = Math.max(0, split.total_ms - cloudMs - (encodedBefore ? 0 : edgeMs));
  const sides = [
    ["edge", "Edge", split.edge, edgeMs],
    ["link", "Link and waiting", [{ stage: "link and waiting", ms: linkMs }], linkMs],
    ["cloud", "Cloud", cloudStages, cloudMs],
  ];

  const totalMs = edgeMs + linkMs + cloudMs;
  const segments = sides.flatMap(([side, , stages]) =>
    stages.map(({ stage, ms }, step) => {
      const segment = barSegment(side, ms, totalMs);
      segment.style.setProperty("--step", step);
      segment.title = `${side}: ${stage}, ${milliseconds(ms)}`;
      return segment;
    }),
  );
  $("time-bar").replaceChildren(...segments);
  const label = sides.map(([, name, , ms]) => `${name} ${milliseconds(ms)}`).join(", ");
  $("time-bar").setAttribute("aria-label", label);
  const [left, right] = [element("div"), element("div")];
  left.append(legend(...sides[0]), legend(...sides[1]));
  right.append(legend(...sides[2]));
  $("time-legend").replaceChildren(left, right);
  $("times-words").textContent =
    `First word after ${milliseconds(split.first_token_ms)}, whole answer after ` +
    `${milliseconds(split.total_ms)}.` +
    (encodedBefore ? " The edge's part was done before the question was asked." : "") +
    (split.image_held ? " The edge had nothing to encode." : "");
}

function legend(side, name, stages, ms) {
  const created = element("div", "side-legend");
  const list = element("ul");
  const head = element("p");
  head.append(element("strong", "", name), " ", element("span", "number", milliseconds(ms)));
  if (side === "link") head.prepend(swatch(side, 0));
  else list.append(...stages.map((stage, step) => stageRow(side, stage, step)));
  created.append(head, list);
  return created;
}

function stageRow(side, { stage, ms }, step) {
  const item = element("li");
  item.append(swatch(side, step), element("span", "", stage), element("span", "number", milliseconds(ms)));
  return item;
}

function swatch(side, step) {
  const created = element("span", `swatch ${side}`);
  created.style.setProperty("--step", step);
  return created;
}

const sum = (stages) => stages.reduce((total, { ms }) => total + ms, 0);
