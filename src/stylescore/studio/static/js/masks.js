// Masks: what is not to be touched, and where the style acts more or less. A mask belongs to its photo; it is sent
// whenever a stroke has ended.
import { saveMask } from "./api.js";
import { announce, button, h, icon, loaded, toast } from "./dom.js";
import { maskOf, maskView, setMask } from "./state.js";

const SIDE = 1024;
const MOST_STEPS = 20;
const TINT = [255, 0, 170];
const LAYER = `rgb(${TINT.join()})`;
const BRUSHES = {
  keep: { label: "Keep", hidden: 1, title: "the photo stays as it is" },
  half: { label: "Less", hidden: 0.5, title: "half of the style" },
  style: { label: "Stylize", hidden: 0, title: "all of the style" },
};
const NAMES = Object.keys(BRUSHES);
const saving = new Map();
let brush = "keep";
let size = 12;

/** A canvas of a photo's proportions, opaque where its mask keeps the photo. */
export async function maskLayer(photo) {
  const scale = Math.min(1, SIDE / Math.max(photo.width, photo.height));
  const [width, height] = [photo.width, photo.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = h("canvas", { class: "mask", width, height });
  canvas.getContext("2d", { willReadFrequently: true });
  const mask = maskOf(photo.id);
  const image = mask && (await loaded(maskView(photo.id, mask), ""));
  if (image) drawKept(canvas, image);
  return canvas;
}

function drawKept(canvas, image) {
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const hidden = 255 - pixels.data[at];
    pixels.data.set([...TINT, hidden], at);
  }
  context.putImageData(pixels, 0, 0);
}

/** The canvas as a mask: white where the photo is stylized, black where it stays. */
function blobOf(canvas) {
  const grey = h("canvas", { width: canvas.width, height: canvas.height });
  const context = grey.getContext("2d");
  context.drawImage(canvas, 0, 0);
  for (const [mode, colour] of [["source-in", "#000"], ["destination-over", "#fff"]]) {
    context.globalCompositeOperation = mode;
    context.fillStyle = colour;
    context.fillRect(0, 0, grey.width, grey.height);
  }
  return new Promise((resolve) => grey.toBlob(resolve, "image/png"));
}

function isEmpty(canvas) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 3; at < data.length; at += 4) if (data[at]) return false;
  return true;
}

/** Send the mask of a photo; strokes that end meanwhile are sent together afterwards. */
function save(photo, canvas) {
  const before = saving.get(photo.id);
  if (before) {
    before.again = true;
    return;
  }
  const entry = { again: false };
  saving.set(photo.id, entry);
  entry.done = (async () => {
    try {
      do {
        entry.again = false;
        setMask(photo.id, isEmpty(canvas) ? null : (await saveMask(photo.id, await blobOf(canvas))).mask);
      } while (entry.again);
    } catch (error) {
      toast(error.message, error.hint, true);
    } finally {
      saving.delete(photo.id);
    }
  })();
}

/** Wait until every mask is with the studio. */
export const masksSaved = () => Promise.all([...saving.values()].map((entry) => entry.done));

/** The painter of one photo: its canvas with the brush, and its tools. */
export function painter(photo, canvas, ondone) {
  const context = canvas.getContext("2d");
  const steps = [];
  const cursor = h("span", { class: "brush", "aria-hidden": "true" });
  let at = [canvas.width / 2, canvas.height / 2];
  let isDown = false;
  let path = [];

  const diameter = () => Math.max(2, (size / 100) * Math.min(canvas.width, canvas.height));

  function moveCursor() {
    cursor.style.setProperty("--x", `${(100 * at[0]) / canvas.width}%`);
    cursor.style.setProperty("--y", `${(100 * at[1]) / canvas.height}%`);
    cursor.style.setProperty("--d", `${(100 * diameter()) / canvas.width}%`);
    cursor.toggleAttribute("data-down", isDown);
  }

  function remember() {
    const copy = h("canvas", { width: canvas.width, height: canvas.height });
    copy.getContext("2d").drawImage(canvas, 0, 0);
    steps.push(copy);
    if (steps.length > MOST_STEPS) steps.shift();
    tools.undo.disabled = false;
  }

  /** Draw the whole stroke anew, as pieces of it would leave seams. */
  function drawStroke() {
    context.globalCompositeOperation = "copy";
    context.drawImage(steps.at(-1), 0, 0);
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = diameter();
    context.strokeStyle = LAYER;
    const [[x, y]] = path;
    for (const [mode, alpha] of [["destination-out", 1], ["source-over", BRUSHES[brush].hidden]]) {
      if (!alpha) continue;
      context.globalCompositeOperation = mode;
      context.globalAlpha = alpha;
      context.beginPath();
      context.moveTo(x - 0.01, y);
      for (const point of path) context.lineTo(...point);
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  const pointOf = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
  };

  function begin(point) {
    remember();
    isDown = true;
    at = point;
    path = [point];
    drawStroke();
    moveCursor();
  }

  function follow(points) {
    at = points.at(-1);
    if (isDown) {
      path.push(...points);
      drawStroke();
    }
    moveCursor();
  }

  function end() {
    if (!isDown) return;
    isDown = false;
    moveCursor();
    save(photo, canvas);
  }

  function restore(source, mode = "copy") {
    context.globalCompositeOperation = mode;
    context.drawImage(source, 0, 0);
    save(photo, canvas);
  }

  function undo() {
    isDown = false;
    const step = steps.pop();
    if (!step) return;
    restore(step);
    tools.undo.disabled = steps.length === 0;
    announce("Undone");
  }

  function invert() {
    isDown = false;
    remember();
    const full = h("canvas", { width: canvas.width, height: canvas.height });
    const layer = full.getContext("2d");
    layer.fillStyle = LAYER;
    layer.fillRect(0, 0, full.width, full.height);
    layer.globalCompositeOperation = "destination-out";
    layer.drawImage(canvas, 0, 0);
    restore(full);
    announce("Inverted");
  }

  function clear() {
    isDown = false;
    remember();
    context.clearRect(0, 0, canvas.width, canvas.height);
    save(photo, canvas);
    announce("Cleared: the whole photo is stylized");
  }

  function setSize(value) {
    size = Math.min(100, Math.max(1, value));
    tools.size.value = size;
    moveCursor();
  }

  function setBrush(name) {
    brush = name;
    for (const radio of tools.node.querySelectorAll("[name=brush]")) radio.checked = radio.value === name;
    announce(`${BRUSHES[name].label}: ${BRUSHES[name].title}`);
  }

  function togglePen() {
    if (isDown) end();
    else begin(at);
    announce(isDown ? "Brush down" : "Brush up");
  }

  const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const KEYS = {
    " ": togglePen, Enter: togglePen, z: undo, i: invert, c: clear,
    x: () => setBrush(NAMES[(NAMES.indexOf(brush) + 1) % NAMES.length]),
    "[": () => setSize(size - 2), "]": () => setSize(size + 2), Escape: () => (isDown ? end() : ondone()),
  };

  function press(event) {
    const direction = DIRECTIONS[event.key];
    const action = KEYS[event.key];
    if ((!direction && !action) || event.altKey || ((event.ctrlKey || event.metaKey) && event.key !== "z")) return;
    event.preventDefault();
    if (action) {
      action();
      return;
    }
    const step = Math.max(1, diameter() / 4) * (event.shiftKey ? 4 : 1);
    follow([direction.map((way, axis) => Math.min([canvas.width, canvas.height][axis], Math.max(0, at[axis] + way * step)))]);
  }

  const tools = makeTools({ undo, invert, clear, setSize, setBrush, ondone });
  for (const [name, value] of Object.entries({ tabindex: "0", role: "application", "aria-label": `Mask of ${photo.name}`, "aria-describedby": "paint-help" })) canvas.setAttribute(name, value);
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    begin(pointOf(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    const events = event.getCoalescedEvents?.() || [];
    follow((events.length ? events : [event]).map(pointOf));
  });
  for (const name of ["pointerup", "pointercancel", "blur"]) canvas.addEventListener(name, end);
  canvas.addEventListener("keydown", press);
  moveCursor();
  return { cursor, tools: tools.node };
}

function makeTools({ undo, invert, clear, setSize, setBrush, ondone }) {
  const radios = NAMES.map((name) => h("label", { class: "tool choice", title: BRUSHES[name].title },
    h("input", { type: "radio", name: "brush", value: name, checked: name === brush, onchange: () => setBrush(name) }),
    h("span", { class: `dab ${name}`, "aria-hidden": "true" }), h("span", {}, BRUSHES[name].label)));
  const range = h("input", { id: "brush-size", type: "range", min: 1, max: 100, value: size, oninput: (event) => setSize(Number(event.target.value)) });
  const back = button("Undo", "undo", undo, { "aria-keyshortcuts": "z", disabled: true });
  const node = h("div", { class: "tools paint" },
    h("div", { class: "choices", role: "radiogroup", "aria-label": "Brush" }, radios),
    h("label", { class: "size", for: "brush-size" }, h("span", {}, "Size"), range),
    back,
    button("Invert", "invert", invert, { "aria-keyshortcuts": "i" }),
    button("Clear the mask", "trash", clear, { "aria-keyshortcuts": "c" }),
    button("Done", "check", ondone, { shown: true, class: "tool strong" }),
    h("p", { class: "facts", id: "paint-help" }, "Pink stays as in the photo.", h("span", { class: "keys" }, " With the keyboard: arrows move the brush, Space puts it down and lifts it, [ and ] change its size, X the brush, Z takes back.")));
  return { node, undo: back, size: range };
}

/** The button that opens the painter. */
export const maskButton = (photo, open) =>
  button("Mask", "brush", open, { shown: true, "aria-pressed": String(maskOf(photo.id) !== null), title: "Paint what is not to be touched" });
