// What the cloud sees, as pictures: the indices of each stage, one coloured square for each patch.

import { $, element } from "./elements.js";
import { bytes, count } from "./words.js";

const GOLDEN_ANGLE = 137.508;
const PICTURE_SIDE = 336;

/** The grids of a map beside the part of the picture that they are of. */
export function showMap(map, preview) {
  const own = map.stages.map((stage) => stageFigure(stage, map.grid));
  if (preview.naturalWidth) own.unshift(pictureFigure(preview));
  $("maps").replaceChildren(...own);
  $("map-words").textContent = map.stages.length
    ? `${bytes(map.payload_bytes)} for all of it. One square for each patch, one colour for each ` +
      "codebook entry; empty where a stage spends nothing."
    : "This bundle sends features as they are; there are no indices to show.";
}

export function hideMap(words = "Choose a picture to see its indices.") {
  $("maps").replaceChildren();
  $("map-words").textContent = words;
}

/** Stable: an entry has the same colour in every picture and on every machine. */
export function colour(entry) {
  const number = entry.reduce((mixed, index) => (mixed * 31 + index) % 1048573, 0);
  return `oklch(${0.45 + 0.08 * (number % 5)} 0.11 ${(number * GOLDEN_ANGLE) % 360})`;
}

function stageFigure(stage, [rows, columns]) {
  const canvas = sheet(columns, rows);
  const context = canvas.getContext("2d");
  stage.indices.forEach((row, y) =>
    row.forEach((entry, x) => {
      if (!entry) return;
      context.fillStyle = colour(entry);
      context.fillRect(x, y, 1, 1);
    }),
  );
  const tokens = rows * columns + 1;
  const words =
    stage.covered === tokens ? `all ${count(tokens)} tokens` : `${count(stage.covered)} of ${count(tokens)} tokens`;
  canvas.dataset.stage = stage.stage;
  canvas.setAttribute("aria-label", `Stage ${stage.stage}: ${words} have an index`);
  return figure(
    canvas,
    `Stage ${stage.stage}`,
    `${words}, one of ${count(stage.codebook_size)} entries each`,
  );
}

function pictureFigure(preview) {
  const { naturalWidth: width, naturalHeight: height } = preview;
  const cut = Math.min(width, height);
  const side = Math.min(cut, PICTURE_SIDE);
  const canvas = sheet(side, side);
  const context = canvas.getContext("2d");
  context.drawImage(preview, (width - cut) / 2, (height - cut) / 2, cut, cut, 0, 0, side, side);
  canvas.classList.add("smooth");
  canvas.setAttribute("aria-label", "The part of the picture that is encoded");
  return figure(canvas, "Picture", "the part that is encoded; it stays here");
}

function sheet(width, height) {
  const canvas = element("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.setAttribute("role", "img");
  return canvas;
}

function figure(canvas, title, words) {
  const made = element("figure");
  const caption = element("figcaption");
  caption.append(element("strong", "", title), " ", element("span", "note", words));
  made.append(canvas, caption);
  return made;
}
