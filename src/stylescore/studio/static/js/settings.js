// The form: style, knob, caption, and everything else folded under "More" with the preset's value shown.
import { getConstants } from "./api.js";
import { button, byId, fill, h, spoken, toast } from "./dom.js";
import { changed, photoOf, state, watch } from "./state.js";

const KEPT = "settings";
const PLAIN = { weight: 1, mixed: {}, content: 0.5, caption: "", style_prompt: null, size: null, seed: 0, negative_prompt: "", keep_colours: 0, mask_feather: null, constants: {} };
const MOST_STYLES = 8;
const form = { style: null, ...structuredClone(PLAIN) };
let preset = {};

// Shown under "More": fields of the run by their own name, constants of the method with a dotted one.
const ROWS = [
  { name: "style_strength", label: "Style strength", step: 0.05, help: "factor of the style, −4 to 4" },
  { name: "iterations", label: "Iterations", step: 1, help: "length of the run" },
  { name: "size", label: "Working size", step: 8, own: true, unset: "by the photo", help: "short side in pixels; larger is finer and slower" },
  { name: "keep_colours", label: "Photo's colours", step: 0.1, own: true, plain: 0, unset: "0", help: "0 those of the style, 1 those of the photo" },
  { name: "mask_feather", label: "Mask edge", step: 1, own: true, unset: "by the photo", help: "width in pixels of a mask's soft edge" },
  { name: "seed", label: "Seed", step: 1, own: true, plain: 0, unset: "0", help: "another one, another picture" },
  { name: "guidance_scale", label: "Guidance", step: 0.5, help: "how closely the style's prompt is followed" },
  { name: "style_prompt", label: "Style prompt", text: true, own: true, unset: "the style's trigger words", help: "prompt for the style" },
  { name: "negative_prompt", label: "Negative prompt", text: true, own: true, plain: "", unset: "none", help: "what guidance moves away from" },
  { name: "relevance.strength", label: "Relevance map", step: 0.1, help: "0 no map, 1 only where the map says" },
  { name: "spectrum.weight", label: "Spectrum weight", step: 0.01, help: "how firmly the photo's frequencies are held" },
  { name: "timesteps.t_max", label: "Largest timestep", step: 10, help: "3 to 999; smaller keeps more of the photo" },
];
const OWN = ROWS.filter((row) => row.own).map((row) => row.name);

/** Whether a style is chosen; a studio may have none. */
export const hasStyle = () => form.style !== null;

/** What the form says, as the studio takes it. */
export const settings = () => structuredClone(form);

/** Whether each of the chosen photos has the caption that was written of it. */
export const hasOwnCaptions = () => form.caption === "" && state.chosen.size > 1 && [...state.chosen].some((id) => photoOf(id)?.caption);

let automatic = "";

/** Show the caption that was written of the chosen photo, unless the user has put another one. */
function showCaption() {
  drawReach();
  if (form.caption !== "" && form.caption !== automatic) return;
  const [first, ...others] = [...state.chosen];
  automatic = others.length ? "" : photoOf(first)?.caption || "";
  form.caption = byId("caption").value = automatic;
  drawReach();
  byId("caption").placeholder = hasOwnCaptions() ? "each photo its own caption" : "what the photo shows, in a few words";
  keep();
}

/** Say that what is typed is the caption of every chosen photo. */
function drawReach() {
  byId("caption-reach").value = form.caption && state.chosen.size > 1 ? `for all ${state.chosen.size} photos` : "";
}

/** The first style and those that are mixed in. */
const weightsOf = ({ style, weight, mixed }) => ({ [style]: weight ?? 1, ...mixed });

/** Put settings into the form. */
export function applySettings(table) {
  const { mask, ...rest } = structuredClone(table);
  Object.assign(form, structuredClone(PLAIN), rest);
  keep();
  changed("form", "style");
  drawFields();
}

/** Draw another seed. */
export function nextSeed() {
  form.seed = Math.floor(Math.random() * 2 ** 31);
  keep();
  changed("form");
}

const keep = () => localStorage.setItem(KEPT, JSON.stringify(form));

function chooseStyle(name) {
  form.style = name;
  delete form.mixed[name];
  if (!Object.keys(form.mixed).length) form.weight = 1;
  keep();
  changed("style", "form");
}

/** Mix a style in; with equal weights at first, so that the strength stays about as it was. */
function mixIn(name) {
  if (!Object.keys(form.mixed).length) form.weight = 0.5;
  form.mixed[name] = 0.5;
  keep();
  changed("style");
  byId("mix").querySelector(`[data-style="${CSS.escape(name)}"] input`).focus();
}

function takeOut(name) {
  delete form.mixed[name];
  if (!Object.keys(form.mixed).length) form.weight = 1;
  keep();
  changed("style");
  byId("mix").querySelector("select").focus();
}

function setWeight(name, text) {
  const value = text.trim() === "" || Number.isNaN(Number(text)) ? 1 : Number(text);
  if (name === form.style) form.weight = value;
  else form.mixed[name] = value;
  keep();
}

function drawMix() {
  const weights = weightsOf(form);
  if (form.style === null) return fill(byId("mix"));
  const isMixed = Object.keys(weights).length > 1 || form.weight !== 1;
  const rows = Object.entries(isMixed ? weights : {}).map(([name, weight]) => h("div", { class: "mix-row", "data-style": name },
    h("span", {}, spoken(name)),
    h("input", { type: "number", step: "any", min: -4, max: 4, value: weight, inputmode: "decimal", "aria-label": `Weight of ${spoken(name)}`, oninput: (event) => setWeight(name, event.target.value) }),
    name === form.style ? h("span", {}) : button(`Take out ${spoken(name)}`, "close", () => takeOut(name))));
  const others = state.styles.filter((style) => !(style.name in weights));
  const select = h("select", { "aria-label": "Mix in another style", onchange: (event) => event.target.value && mixIn(event.target.value) },
    h("option", { value: "" }, "Mix in another style …"), others.map((style) => h("option", { value: style.name }, spoken(style.name))));
  select.hidden = others.length === 0 || Object.keys(weights).length >= MOST_STYLES;
  fill(byId("mix"), rows, select);
}

function drawStyles() {
  const cards = state.styles.map((style) => {
    const radio = h("input", { type: "radio", name: "style", value: style.name, checked: style.name === form.style, onchange: () => chooseStyle(style.name) });
    const face = style.thumbnail
      ? h("img", { src: style.thumbnail, alt: "", width: 224, height: 224 })
      : h("span", { class: "letters", "aria-hidden": "true" }, initials(style.name));
    return h("label", { class: "style", title: style.base ? `for ${style.base}` : null }, radio, face, h("span", { class: "style-name" }, spoken(style.name)));
  });
  fill(byId("styles"), cards.length ? cards : h("p", { class: "no-styles" }, "No style is here yet. Put a LoRA file into a style folder, which `stylescore styles` names, or start the studio with --styles FOLDER."));
}

const initials = (name) => spoken(name).split(" ").slice(0, 2).map((word) => word[0]).join("").toUpperCase();

function markStyle() {
  for (const radio of byId("styles").querySelectorAll("input")) radio.checked = radio.value === form.style;
  drawMix();
  if (form.style === null) return;
  const named = () => [form.style, ...Object.keys(form.mixed)].join("\n");
  const asked = named();
  getConstants(form.style, Object.keys(form.mixed)).then((found) => {
    if (asked !== named()) return;
    preset = found;
    drawRows();
  }, (error) => toast(error.message, error.hint, true));
}

function drawFields() {
  byId("content").value = form.content;
  byId("caption").value = form.caption;
  drawKnob();
  drawRows();
}

function drawKnob() {
  const { content } = form;
  const far = Math.round(Math.abs(content - 0.5) * 200);
  const words = content === 0.5 ? "balanced" : content < 0.5 ? `${far} % towards style` : `${far} % towards photo`;
  byId("content-value").value = words;
  byId("content").setAttribute("aria-valuetext", words);
  byId("content").style.setProperty("--at", `${content * 100}%`);
}

const valueOf = (row) => (row.own ? form[row.name] : form.constants[row.name]) ?? null;
const presetOf = (row) => (row.own ? row.unset : format(preset[row.name]));
const isChanged = (row) => valueOf(row) !== null && valueOf(row) !== row.plain;
const format = (value) => (value === undefined ? "" : typeof value === "number" ? String(Number(value.toPrecision(6))) : String(value));

const valueIn = (row, text) => (text.trim() === "" ? row.plain ?? null : row.text ? text : Number(text));

function setValue(row, text) {
  const value = valueIn(row, text);
  if (row.own) form[row.name] = value;
  else if (value === null) delete form.constants[row.name];
  else form.constants[row.name] = value;
  keep();
  markChanged();
}

function otherRows() {
  const known = ROWS.map((row) => row.name);
  return Object.keys(form.constants).filter((name) => !known.includes(name)).map((name) => ({ name, label: name, fixed: true }));
}

const drawn = new Map();

/** Draw the rows; those that stay are kept, as somebody may be typing in one when the constants arrive. */
function drawRows() {
  const rows = [...ROWS.filter((row) => row.own || row.name in preset), ...otherRows()];
  const items = rows.map((row) => drawRow(row));
  const shown = [...byId("rows").children];
  if (items.length !== shown.length || items.some((item, at) => item !== shown[at])) {
    const focused = document.activeElement;
    fill(byId("rows"), items);
    if (items.some((item) => item.contains(focused))) focused.focus({ preventScroll: true });
  }
  markChanged();
}

function drawRow(row) {
  if (row.fixed) return fixedRow(row);
  if (!drawn.has(row.name)) drawn.set(row.name, inputRow(row));
  const { item, input, help } = drawn.get(row.name);
  input.placeholder = presetOf(row);
  help.textContent = [row.help, row.own ? "" : `preset ${presetOf(row)}`].filter(Boolean).join("; ");
  if (input !== document.activeElement || valueIn(row, input.value) !== valueOf(row)) input.value = isChanged(row) ? valueOf(row) : "";
  return item;
}

const idOf = (row) => `row-${row.name.replace(".", "-")}`;

function rowOf(row, field, ...tools) {
  const help = h("small", { id: `${idOf(row)}-help` });
  return { help, item: h("div", { class: "row", "data-row": row.name }, h("label", { for: idOf(row) }, row.label), h("span", { class: "row-input" }, field, ...tools), help) };
}

function inputRow(row) {
  const id = idOf(row);
  const input = h("input", { id, type: row.text ? "text" : "number", step: row.step ? "any" : null, inputmode: row.text ? null : "decimal", autocomplete: "off", "aria-describedby": `${id}-help`,
    oninput: (event) => setValue(row, event.target.value) });
  const dice = row.name === "seed" ? button("Draw another seed", "dice", nextSeed) : null;
  return { input, ...rowOf(row, input, dice, resetOf(row, () => setValue(row, ""))) };
}

function fixedRow(row) {
  const field = h("output", { id: idOf(row), class: "fixed" }, JSON.stringify(form.constants[row.name]));
  return rowOf(row, field, resetOf(row, () => delete form.constants[row.name])).item;
}

function resetOf(row, reset) {
  return button(`Reset ${row.label}`, "again", () => {
    reset();
    keep();
    drawRows();
  }, { class: "tool reset" });
}

function markChanged() {
  const rows = [...ROWS, ...otherRows()];
  const count = rows.filter((row) => row.fixed || isChanged(row)).length;
  for (const row of rows) byId("rows").querySelector(`[data-row="${row.name}"]`)?.toggleAttribute("data-changed", row.fixed || isChanged(row));
  byId("changed").textContent = count ? `${count} changed` : "all as the preset";
}

/** Describe a job's settings in a few words. */
export function describe(settings) {
  const constants = Object.entries(settings.constants).map(([name, value]) => `${name} ${format(value)}`);
  const own = OWN.filter((name) => settings[name]).map((name) => `${spoken(name)} ${settings[name]}`);
  const [[first, weight], ...mixed] = Object.entries(weightsOf(settings));
  const styles = mixed.length || weight !== 1 ? [[first, weight], ...mixed].map(([name, part]) => `${spoken(name)} ${format(part)}`).join(" + ") : spoken(first);
  const mask = settings.mask ? ["masked"] : [];
  const knob = settings.content === 0.5 ? [] : [settings.content < 0.5 ? `style +${Math.round((0.5 - settings.content) * 200)} %` : `photo +${Math.round((settings.content - 0.5) * 200)} %`];
  return [styles, ...knob, ...mask, ...own, ...constants].join(" · ");
}

/** Choose styles that the studio has. */
function requireStyles() {
  const has = (name) => state.styles.some((style) => style.name === name);
  if (!has(form.style)) form.style = has("van-gogh") ? "van-gogh" : state.styles[0]?.name ?? null;
  form.mixed = Object.fromEntries(Object.entries(form.mixed).filter(([name]) => name !== form.style && has(name)));
}

/** Fill the form with what was chosen last. */
export function startSettings() {
  try {
    Object.assign(form, JSON.parse(localStorage.getItem(KEPT) || "{}"));
  } catch {
    localStorage.removeItem(KEPT);
  }
  requireStyles();
  drawStyles();
  watch(["style"], markStyle);
  watch(["styles"], () => {
    requireStyles();
    drawStyles();
    markStyle();
  });
  watch(["form"], drawFields);
  if (state.photos.some((photo) => photo.caption === form.caption)) automatic = form.caption;
  watch(["chosen", "captions"], showCaption);
  byId("content").addEventListener("input", (event) => {
    form.content = Number(event.target.value);
    keep();
    drawKnob();
  });
  byId("caption").addEventListener("input", (event) => {
    form.caption = event.target.value;
    drawReach();
    keep();
  });
  changed("style", "form");
}
