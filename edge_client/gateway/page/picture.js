// Where pictures come from: a file, a drop, the clipboard, the camera.

import { takePicture } from "./camera.js";
import { $, say } from "./elements.js";
import { megabytes } from "./words.js";

const REST_OF_REQUEST_BYTES = 65536;

/** Words for people about a file that cannot be used. */
export class Unusable extends Error {}

/**
 * A picture as it is sent and shown.
 * Throws Unusable where it is none, or does not fit into a request of so many bytes.
 */
export async function openPicture(file, maxRequestBytes) {
  const kind = file.type.split("/")[1]?.toUpperCase();
  if (!file.type.startsWith("image/")) {
    throw new Unusable("This file is not a picture. Choose one, such as a JPEG or PNG.");
  }
  const room = Math.floor(((maxRequestBytes - REST_OF_REQUEST_BYTES) * 3) / 4);
  if (file.size > room) {
    throw new Unusable(
      `This picture has ${megabytes(file.size)}, and the gateway takes ${megabytes(room)}. ` +
        "Choose a smaller one, or save it with fewer pixels.",
    );
  }
  const uri = await asDataUri(file);
  return { name: file.name, kind, fileBytes: file.size, uri, url: URL.createObjectURL(file) };
}

/** Hands every file that somebody offers to `take`, and words for what is none to `refuse`. */
export function offerPictures(take, refuse) {
  const input = $("file");
  $("choose").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    if (input.files.length) take(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });

  document.addEventListener("dragover", (event) => {
    if (isText(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    if (isText(event)) return;
    event.preventDefault();
    document.body.classList.remove("dropping");
    const [file] = event.dataTransfer.files;
    if (file) take(file);
    else refuse("That was no file. Pictures at addresses are not fetched: save it and drop the file.");
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (!file) return;
    event.preventDefault();
    take(file);
  });

  if (navigator.mediaDevices?.getUserMedia) {
    $("use-camera").addEventListener("click", async () => {
      const file = await takePicture();
      if (file) take(file);
    });
  } else {
    $("use-camera").hidden = true;
    say("camera-note", "Browsers allow the camera on localhost and over HTTPS only.");
  }
}

/** Words that are dragged into the question are left to the browser. */
const isText = ({ target, dataTransfer }) =>
  target === $("question") && !dataTransfer.types.includes("Files");

function asDataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Unusable("This file cannot be read. Choose it again."));
    reader.readAsDataURL(file);
  });
}
