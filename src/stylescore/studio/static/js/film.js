// The film under the stage: every picture, the newest first; up to four are chosen to compare.
import { archiveOf, cancelWaiting } from "./api.js";
import { announce, button, byId, fill, h, icon, spoken, toast } from "./dom.js";
import { changed, hasPicture, isActive, newestFirst, photoOf, photoThumb, putJobs, show, state, thumbOf, watch } from "./state.js";
import { sentence } from "./stage.js";

const MOST = 4;
const items = new Map();
const known = new Map();

const nameOf = (job) => `${photoOf(job.photo)?.name || "photo"}, ${spoken(job.settings.style)}`;

function make(job) {
  const image = h("img", { alt: "", loading: "lazy" });
  const press = h("button", { type: "button", class: "shot", onclick: () => show({ kind: "job", id: job.id }) }, image, h("span", { class: "ring", "aria-hidden": "true" }), h("span", { class: "shot-name" }, spoken(job.settings.style)));
  const pick = h("button", { type: "button", class: "pick", onclick: () => toggle(job.id) }, icon("compare"));
  return h("li", {}, press, pick);
}

function drawItem(job) {
  if (!items.has(job.id)) items.set(job.id, make(job));
  const item = items.get(job.id);
  const [press, pick] = item.children;
  const photo = photoOf(job.photo);
  const src = hasPicture(job) ? thumbOf(job) : photo ? photoThumb(photo) : "";
  const image = press.querySelector("img");
  if (image.getAttribute("src") !== src) image.setAttribute("src", src);
  item.dataset.status = job.status;
  item.style.setProperty("--done", job.total ? job.iteration / job.total : 0);
  const current = state.shown.kind === "job" && state.shown.id === job.id;
  press.setAttribute("aria-current", current);
  press.setAttribute("aria-label", [nameOf(job), hasPicture(job) ? "" : sentence(job)].filter(Boolean).join(": "));
  pick.hidden = !hasPicture(job);
  pick.setAttribute("aria-pressed", state.compared.includes(job.id));
  pick.setAttribute("aria-label", `Compare ${nameOf(job)}`);
  pick.title = "Choose, to compare or download";
  return item;
}

function toggle(id) {
  if (state.compared.includes(id)) state.compared = state.compared.filter((other) => other !== id);
  else state.compared = [...state.compared, id];
  changed("jobs");
  if (state.shown.kind === "compare") show(state.compared.length > 1 ? { kind: "compare" } : { kind: "job", id: state.compared[0] || id });
}

function draw() {
  const jobs = newestFirst();
  const strip = byId("film");
  const wanted = jobs.map(drawItem);
  if (wanted.length !== strip.children.length || wanted.some((item, index) => strip.children[index] !== item)) {
    const focused = document.activeElement;
    strip.replaceChildren(...wanted);
    if (strip.contains(focused)) focused.focus({ preventScroll: true });
  }
  strip.parentElement.hidden = jobs.length === 0;
  drawBar(jobs.filter((job) => job.status === "queued").length);
  drawQueue(jobs);
  tellChanges(jobs);
}

let drawnBar = "";

function drawBar(waiting) {
  const bar = byId("film-bar");
  const count = state.shown.kind === "compare" ? 0 : state.compared.length;
  bar.hidden = count < 2 && waiting < 2;
  const key = bar.hidden ? "" : `${count > 1 ? state.compared.join() : ""} ${waiting}`;
  if (key === drawnBar) return;
  drawnBar = key;
  const cancel = waiting > 1 && button(`Cancel ${waiting} waiting`, "close", cancelAll, { shown: true });
  const download = () => h("a", { class: "tool", href: archiveOf(state.compared), download: "" }, icon("download"), h("span", {}, `Download ${count}`));
  fill(bar, ...(count > 1 ? [button(`Compare ${count}`, "compare", compare, { shown: true, class: "tool strong" }), download()] : []), cancel);
}

async function cancelAll() {
  try {
    const { jobs } = await cancelWaiting();
    putJobs(jobs);
    announce(`${jobs.length} pictures are cancelled`);
  } catch (error) {
    toast(error.message, error.hint, true);
  }
}

function compare() {
  if (state.compared.length > MOST) toast(`At most ${MOST} pictures are compared`, "Take some out first.");
  else show({ kind: "compare" });
}

function drawQueue(jobs) {
  const active = jobs.filter(isActive);
  const waiting = active.filter((job) => job.status === "queued").length;
  const words = waiting === 0 ? "making a picture" : active.length === waiting ? `${waiting} in the queue` : `making a picture, ${waiting} to come`;
  const queue = byId("queue");
  if (queue.dataset.words !== `${active.length} ${words}`) {
    queue.dataset.words = `${active.length} ${words}`;
    fill(queue, active.length > 0 && [h("span", { class: "wide" }, words), h("span", { class: "narrow" }, `${active.length} to make`)]);
  }
  queue.toggleAttribute("data-active", active.length > 0);
}

/** Say what ended since the last look. */
function tellChanges(jobs) {
  for (const job of jobs) {
    const before = known.get(job.id);
    known.set(job.id, job.status);
    if (!before || before === job.status || isActive(job)) continue;
    announce(`${nameOf(job)}: ${job.status === "done" ? "done" : sentence(job)}`);
  }
}

/** Draw the film, now and whenever it changes. */
export function startFilm() {
  watch(["jobs", "shown", "photos", "line"], draw);
  draw();
}
