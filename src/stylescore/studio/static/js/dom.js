// Small helpers to build elements; texts are always set as text, never as markup.

/** Make an element: attributes as an object ("on..." adds a listener, true and false toggle), then children. */
export function h(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) set(node, key, value);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function set(node, key, value) {
  if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
  else if (value === true) node.setAttribute(key, "");
  else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
}

const PATHS = {
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  check: "M5 13l4 4L19 7",
  download: "M12 4v11m0 0l-5-5m5 5l5-5M5 20h14",
  stop: "M7 7h10v10H7z",
  play: "M8 5l11 7-11 7z",
  map: "M12 4l9 5-9 5-9-5zM3 14l9 5 9-5",
  zoom: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  compare: "M4 5h7v14H4zM13 5h7v14h-7z",
  dice: "M5 5h14v14H5zM9 9h.01M15 15h.01M15 9h.01M9 15h.01",
  again: "M20 11a8 8 0 10-2.3 6.3M20 4v7h-7",
  sliders: "M4 7h10M18 7h2M4 17h2M10 17h10M14 4v6M8 14v6",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  sun: "M12 8a4 4 0 100 8 4 4 0 000-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.5 1.5M17.5 17.500L19 19M5 19l1.5-1.500M17.5 6.500L19 5",
  moon: "M20 14.500A8 8 0 019.5 4a8 8 0 1010.5 10.500z",
  auto: "M12 4a8 8 0 100 16zM12 4a8 8 0 010 16",
  disk: "M4 7c0-1.7 3.6-3 8-3s8 1.3 8 3-3.6 3-8 3-8-1.3-8-3zM4 7v10c0 1.7 3.6 3 8 3s8-1.3 8-3V7M4 12c0 1.7 3.6 3 8 3s8-1.3 8-3",
  brush: "M20 4c-5 2-9 6-11 10m11-10c-2 5-6 9-10 11M9 14c-3 0-4 2-4 4 0 1-1 2-2 2 3 1 7 0 7-4 0-1 0-2-1-2z",
  undo: "M9 5L4 10l5 5M4 10h10a5 5 0 010 10h-3",
  invert: "M4 4h16v16H4zM4 20L20 4v16z",
  photo: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15 9.500h.01",
};
const SVG = "http://www.w3.org/2000/svg";

/** Return an icon, hidden from screen readers. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" })) svg.setAttribute(key, value);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon, and its words if `shown`. */
export function button(words, name, onclick, { shown = false, ...attributes } = {}) {
  const label = shown ? h("span", {}, words) : null;
  return h("button", { type: "button", class: "tool", "aria-label": shown ? null : words, title: shown ? null : words, onclick, ...attributes }, icon(name), label);
}

export const byId = (id) => document.getElementById(id);

/** Replace all children. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter(Boolean));
}

/** Load a picture wholly before it is shown, so that nothing flickers; `null` if it cannot be had. */
export async function loaded(src, alt) {
  const image = h("img", { src, alt, draggable: "false" });
  try {
    await image.decode();
  } catch {
    return null;
  }
  return image;
}

/** "oil-painting" as people write it. */
export const spoken = (name) => name.replaceAll(/_+|-+(?!\w$)/g, " ");

/** Say something to screen readers. */
export function announce(words) {
  byId("spoken").textContent = words;
}

/** Show a short message that goes away by itself; problems stay until they are closed. */
export function toast(words, hint = "", isProblem = false) {
  const close = button("Close", "close", () => note.remove());
  const note = h("div", { class: isProblem ? "toast problem" : "toast" }, h("p", {}, words, hint ? h("small", {}, hint) : null), close);
  byId("toasts").append(note);
  if (!isProblem) setTimeout(() => note.remove(), 6000);
}
