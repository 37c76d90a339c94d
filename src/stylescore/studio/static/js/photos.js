// Photos: dropped, pasted or chosen; the tray in which they are picked.
import { removePhoto, upload } from "./api.js";
import { suggestCaption } from "./captions.js";
import { announce, byId, h, icon, toast } from "./dom.js";
import { applySettings } from "./settings.js";
import { changed, isActive, listedPhotos, maskOf, photoOf, photoThumb, setMask, show, showSomething, state, watch } from "./state.js";

const waiting = [];
let isSending = false;

/** Add files: one after another, so that they keep their order; the studio looks at one at a time anyway. */
export function addFiles(files) {
  const known = state.limits.upload_bytes || Infinity;
  for (const file of files) {
    if (file.name.endsWith(".safetensors")) toast(`${file.name} is no photo`, "A LoRA file is taken from a style folder: put it into the one that `stylescore styles` names, or start the studio with --styles FOLDER. It is among the styles then.", true);
    else if (file.size > known) toast(`${file.name} has more than ${Math.floor(known / 2 ** 20)} MiB`, "Save it smaller first.", true);
    else waiting.push(file);
  }
  state.uploading = [...state.uploading, ...waiting.filter((file) => !state.uploading.includes(file))];
  changed("photos");
  pump();
}

/** Take the photo that comes with the studio. */
export async function addSample() {
  const answer = await fetch("/static/sample.jpg");
  addFiles([new File([await answer.blob()], "coffee.jpg", { type: "image/jpeg" })]);
}

async function pump() {
  if (isSending) return;
  isSending = true;
  while (waiting.length) await take(waiting.shift());
  isSending = false;
}

async function take(file) {
  try {
    const answer = await upload(file, file.name);
    if (answer.settings) restore(file, answer);
    else addPhoto(answer.photo);
  } catch (error) {
    toast(error.message, error.hint, true);
  } finally {
    state.uploading = state.uploading.filter((other) => other !== file);
    changed("photos");
  }
}

function addPhoto(photo) {
  const known = photoOf(photo.id);
  if (known) known.listed = true;
  else state.photos.push(photo);
  state.chosen.add(photo.id);
  changed("photos", "chosen");
  suggestCaption(photoOf(photo.id));
  for (const note of photo.notes) toast(`${photo.name}: ${note}`);
  const busy = state.shown.kind === "job" && isActive(state.jobs.get(state.shown.id) || {});
  if (!busy) show({ kind: "photo", id: photo.id });
}

function restore(file, { settings, notes, photo }) {
  applySettings(settings);
  if (photo) {
    if (!photoOf(photo.id)) state.photos.push(photo);
    photoOf(photo.id).listed = true;
    setMask(photo.id, settings.mask);
    changed("photos");
    choose([photo.id]);
  }
  const rest = photo ? `The photo ${photo.name} is chosen.` : "Drop its photo to make it again.";
  toast(`The settings of ${file.name} are back.`, [...notes, rest].join(". "));
}

/** Choose just these photos. */
export function choose(ids) {
  state.chosen = new Set(ids.filter(photoOf));
  const first = photoOf(ids[0]);
  if (first) show({ kind: "photo", id: first.id });
  changed("chosen");
}

function toggle(photo) {
  if (state.chosen.has(photo.id)) state.chosen.delete(photo.id);
  else state.chosen.add(photo.id);
  show({ kind: "photo", id: photo.id });
  changed("chosen");
}

async function drop(photo) {
  try {
    await removePhoto(photo.id);
  } catch (error) {
    if (error.status !== 404) {
      toast(error.message, error.hint, true);
      return;
    }
  }
  photo.listed = false;
  state.chosen.delete(photo.id);
  setMask(photo.id, null);
  if (state.shown.kind !== "job" && state.shown.id === photo.id) showSomething();
  changed("photos", "chosen");
  announce(`${photo.name} is removed`);
  byId("tray").querySelector(".add").focus({ preventScroll: true });
}

const tiles = new Map();

function tile(photo) {
  if (!tiles.has(photo.id)) {
    const press = h("button", { type: "button", class: "tile", title: photo.name, onclick: () => toggle(photo) },
      h("img", { src: photoThumb(photo), alt: "", loading: "lazy" }), h("span", { class: "masked", "aria-hidden": "true" }, icon("brush")), h("span", { class: "tick", "aria-hidden": "true" }, icon("check")));
    const close = h("button", { type: "button", class: "pick", "aria-label": `Take ${photo.name} off the list`, title: "Take off the list", onclick: () => drop(photo) }, icon("close"));
    tiles.set(photo.id, h("li", {}, press, close));
  }
  const item = tiles.get(photo.id);
  const chosen = state.chosen.has(photo.id);
  item.firstChild.setAttribute("aria-pressed", chosen);
  item.firstChild.setAttribute("aria-label", `Photo ${photo.name}${maskOf(photo.id) ? ", masked" : ""}`);
  item.firstChild.querySelector(".masked").hidden = !maskOf(photo.id);
  return item;
}

const adder = h("li", {}, h("button", { type: "button", class: "tile add", "aria-label": "Add photos", title: "Add photos", onclick: () => byId("files").click() }, icon("plus")));

function draw() {
  const pending = state.uploading.map((file) => h("li", {}, h("span", { class: "tile pending", role: "img", "aria-label": `${file.name} is being added` })));
  const items = [adder, ...listedPhotos().map(tile).reverse(), ...pending];
  const focused = document.activeElement;
  byId("tray").replaceChildren(...items);
  if (items.some((item) => item.contains(focused))) focused.focus({ preventScroll: true });
}

/** Let files be dropped anywhere, pasted, or chosen. */
export function startPhotos() {
  watch(["photos", "chosen", "masks"], draw);
  const input = byId("files");
  input.addEventListener("change", () => {
    addFiles([...input.files]);
    input.value = "";
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files || [])];
    if (files.length) addFiles(files);
  });
  startDropping();
}

function startDropping() {
  const veil = byId("veil");
  let depth = 0;
  const hasFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  const reveal = (change) => {
    depth = Math.max(0, depth + change);
    veil.hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => hasFiles(event) && reveal(1));
  addEventListener("dragleave", (event) => hasFiles(event) && reveal(-1));
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    veil.hidden = true;
    addFiles([...event.dataTransfer.files]);
  });
}

