// Image files from the file dialog, drag and drop, the clipboard and the camera.

import { takePhoto } from "./camera.js";
import { $, setText } from "./elements.js";
import { megabytes } from "./text.js";

const REST_OF_REQUEST_BYTES = 65536;

/** A file that cannot be used; the message is shown to the user. */
export class UnusableFile extends Error {}

/**
 * An image file as a data URI, for requests, and as an object URL, for display.
 * Throws UnusableFile if it is no image, or too large for a request of `maxRequestBytes`.
 */
export async function readImage(file, maxRequestBytes) {
  const format = file.type.split("/")[1]?.toUpperCase();
  if (!file.type.startsWith("image/")) {
    throw new UnusableFile("This file is not a picture. Choose one, such as a JPEG or PNG.");
  }
  // Base64 writes three bytes as four characters.
  const maxBytes = Math.floor(((maxRequestBytes - REST_OF_REQUEST_BYTES) * 3) / 4);
  if (file.size > maxBytes) {
    throw new UnusableFile(
      `This picture has ${megabytes(file.size)}, and the gateway takes ${megabytes(maxBytes)}. ` +
        "Choose a smaller one, or save it with fewer pixels.",
    );
  }
  const uri = await toDataUri(file);
  return { name: file.name, format, uri, url: URL.createObjectURL(file) };
}

/** Calls `onFile` with each file that the user provides, and `onError` with text for a bad drop. */
export function listenForImages(onFile, onError) {
  const input = $("file");
  $("choose").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    if (input.files.length) onFile(input.files[0]);
    input.value = ""; // else choosing the same file again would fire no event
  });

  document.addEventListener("dragover", (event) => {
    if (isTextDrag(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    if (isTextDrag(event)) return;
    event.preventDefault();
    document.body.classList.remove("dropping");
    const [file] = event.dataTransfer.files;
    if (file) onFile(file);
    else onError("That was no file. Pictures at addresses are not fetched: save it and drop the file.");
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (!file) return;
    event.preventDefault();
    onFile(file);
  });

  if (navigator.mediaDevices?.getUserMedia) {
    $("use-camera").addEventListener("click", async () => {
      const file = await takePhoto();
      if (file) onFile(file);
    });
  } else {
    $("use-camera").hidden = true;
    setText("camera-note", "Browsers allow the camera on localhost and over HTTPS only.");
  }
}

/** Whether text is dragged into the question, which the browser handles. */
const isTextDrag = ({ target, dataTransfer }) =>
  target === $("question") && !dataTransfer.types.includes("Files");

function toDataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new UnusableFile("This file cannot be read. Choose it again."));
    reader.readAsDataURL(file);
  });
}
