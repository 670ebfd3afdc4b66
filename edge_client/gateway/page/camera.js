// A photo from the camera, taken in a dialog.

import { $, setText } from "./elements.js";

const ERRORS = {
  NotAllowedError: "The camera was not allowed. Allow it for this address, then try again.",
  NotFoundError: "No camera was found. Connect one, or choose a file.",
  NotReadableError: "Another program uses the camera. Close it, then try again.",
};

/** The photo as a JPEG file; null if the user cancelled. */
export async function takePhoto() {
  const dialog = $("camera");
  const video = $("viewfinder");
  setText("camera-problem", "");
  $("shoot").disabled = true;
  dialog.showModal();
  const closed = new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  let photo = null;
  let stream = null;

  video.onloadeddata = () => ($("shoot").disabled = false);
  $("shoot").onclick = async () => {
    photo = await captureFrame(video);
    dialog.close();
  };
  $("camera-cancel").onclick = () => dialog.close();

  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    video.srcObject = stream;
  } catch (error) {
    setText("camera-problem", ERRORS[error.name] ?? "The camera did not start. Choose a file.");
  }
  // The user may have closed the dialog while the browser asked for permission.
  if (dialog.open) await closed;
  stream?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  return photo;
}

async function captureFrame(video) {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  return new File([blob], "camera.jpg", { type: "image/jpeg" });
}
