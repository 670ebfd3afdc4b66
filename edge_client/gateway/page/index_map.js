// The index map: the indices of each stage, drawn as one coloured square per patch.

import { $, element } from "./elements.js";
import { bytes, count } from "./text.js";

const GOLDEN_ANGLE = 137.508;
const PREVIEW_SIDE = 336;

/** Draws the grid of each stage, beside the part of the image that is encoded. */
export function showMap(map, preview) {
  const figures = map.stages.map((stage) => stageFigure(stage, map.grid));
  if (preview.naturalWidth) figures.unshift(imageFigure(preview));
  $("maps").replaceChildren(...figures);
  $("map-words").textContent = map.stages.length
    ? `${bytes(map.payload_bytes)} for all of it. One square for each patch, one colour for each ` +
      "codebook entry; empty where a stage spends nothing."
    : "This bundle sends features as they are; there are no indices to show.";
}

export function hideMap(text = "Choose a picture to see its indices.") {
  $("maps").replaceChildren();
  $("map-words").textContent = text;
}

/**
 * The colour of a patch's indices, the same in every image and on every machine.
 * Multiples of the golden angle spread over all hues, so that neighbouring indices look different.
 */
export function colour(indices) {
  const hash = indices.reduce((sum, index) => (sum * 31 + index) % 1048573, 0);
  return `oklch(${0.45 + 0.08 * (hash % 5)} 0.11 ${(hash * GOLDEN_ANGLE) % 360})`;
}

function stageFigure(stage, [rows, columns]) {
  const canvas = createCanvas(columns, rows);
  const context = canvas.getContext("2d");
  stage.indices.forEach((row, y) =>
    row.forEach((indices, x) => {
      if (!indices) return;
      context.fillStyle = colour(indices);
      context.fillRect(x, y, 1, 1);
    }),
  );
  const tokens = rows * columns + 1; // patches and the class token
  const coverage =
    stage.covered === tokens ? `all ${count(tokens)} tokens` : `${count(stage.covered)} of ${count(tokens)} tokens`;
  canvas.dataset.stage = stage.stage;
  canvas.setAttribute("aria-label", `Stage ${stage.stage}: ${coverage} have an index`);
  return figure(
    canvas,
    `Stage ${stage.stage}`,
    `${coverage}, one of ${count(stage.codebook_size)} entries each`,
  );
}

function imageFigure(preview) {
  const { naturalWidth: width, naturalHeight: height } = preview;
  const cropSide = Math.min(width, height);
  const [left, top] = [(width - cropSide) / 2, (height - cropSide) / 2];
  const side = Math.min(cropSide, PREVIEW_SIDE);
  const canvas = createCanvas(side, side);
  const context = canvas.getContext("2d");
  context.drawImage(preview, left, top, cropSide, cropSide, 0, 0, side, side);
  canvas.classList.add("smooth");
  canvas.setAttribute("aria-label", "The part of the picture that is encoded");
  return figure(canvas, "Picture", "the part that is encoded; it stays here");
}

function createCanvas(width, height) {
  const canvas = element("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.setAttribute("role", "img");
  return canvas;
}

function figure(canvas, title, text) {
  const created = element("figure");
  const caption = element("figcaption");
  caption.append(element("strong", "", title), " ", element("span", "note", text));
  created.append(canvas, caption);
  return created;
}
