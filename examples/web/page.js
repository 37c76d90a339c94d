// The page: chooses a network and a photo or the camera, and shows photo and picture side by side.

import { loadNetwork, stylize } from "./network.js";

const $ = (id) => document.getElementById(id);
const CAMERA_SIDE = 320;
let network = null;
let photo = null;
let camera = null;
let queue = Promise.resolve();

const say = (line) => ($("status").textContent = line);

/** Runs one task after another, so that a picture is not computed while the last one is. */
function enqueue(task) {
  queue = queue.then(task).catch((error) => say(error.message));
  return queue;
}

async function useNetwork(bytes) {
  say("Loading the network …");
  const provider = new URLSearchParams(location.search).get("provider") || undefined;
  network = await loadNetwork(new Uint8Array(bytes), { provider });
  const where = network.provider === "webgpu" ? "on the GPU" : "on the processor";
  say(`${network.facts.style}, ${where}. Choose a photo or the camera.`);
  document.body.dataset.provider = network.provider;
}

async function usePhoto(blob) {
  stopCamera();
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
  photo = pixelsOf(bitmap, bitmap.width, bitmap.height);
  bitmap.close();
  draw($("before"), photo);
  await paint();
}

function pixelsOf(source, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

function draw(canvas, image) {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

async function paint() {
  if (!network || !photo) return say(network ? "Choose a photo or the camera." : "Choose a network first.");
  delete document.body.dataset.done;
  const start = performance.now();
  say("Stylizing …");
  const seed = Number($("seed").value) >>> 0;
  const picture = await stylize(network, photo, seed, (done, total) => total > 1 && say(`Tile ${done} of ${total}`));
  draw($("after"), picture);
  $("save").disabled = false;
  say(`${photo.width} × ${photo.height} pixels in ${((performance.now() - start) / 1000).toFixed(1)} s`);
  document.body.dataset.done = "yes";
}

async function startCamera() {
  if (camera) return stopCamera();
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  camera = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
  await camera.play();
  $("camera").textContent = "Stop the camera";
  for (let frames = 0, start = performance.now(); camera; frames++) {
    const scale = Math.min(1, CAMERA_SIDE / Math.min(camera.videoWidth, camera.videoHeight));
    photo = pixelsOf(camera, Math.round(camera.videoWidth * scale), Math.round(camera.videoHeight * scale));
    draw($("before"), photo);
    draw($("after"), await stylize(network, photo, Number($("seed").value) >>> 0));
    say(`${((frames + 1) / ((performance.now() - start) / 1000)).toFixed(1)} pictures a second`);
    document.body.dataset.frames = frames + 1;
    $("save").disabled = false;
    await new Promise((next) => requestAnimationFrame(next));
  }
}

function stopCamera() {
  camera?.srcObject.getTracks().forEach((track) => track.stop());
  camera = null;
  $("camera").textContent = "Camera";
}

function save() {
  $("after").toBlob((blob) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "stylized.png" });
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

$("network").onchange = ({ target }) => enqueue(async () => {
  await useNetwork(await target.files[0].arrayBuffer());
  if (photo) await paint();
});
$("photo").onchange = ({ target }) => enqueue(() => usePhoto(target.files[0]));
$("seed").onchange = () => enqueue(paint);
$("camera").onclick = () => (camera ? stopCamera() : network ? enqueue(startCamera) : say("Choose a network first."));
$("save").onclick = save;
$("divider").oninput = ({ target }) => document.body.style.setProperty("--shown", `${target.value}%`);
document.body.ondragover = (event) => event.preventDefault();
document.body.ondrop = (event) => {
  event.preventDefault();
  const file = event.dataTransfer.files[0];
  if (file) enqueue(async () => (file.name.endsWith(".onnx") ? useNetwork(await file.arrayBuffer()) : usePhoto(file)));
};

const given = new URLSearchParams(location.search).get("network");
if (given) {
  enqueue(async () => {
    const answer = await fetch(new URL(given, location.href));
    if (!answer.ok) throw new Error(`There is no file ${given}.`);
    await useNetwork(await answer.arrayBuffer());
  });
}
