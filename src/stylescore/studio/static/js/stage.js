// The stage: invitation, photo, picture in the making, before and after, or several pictures side by side.
import { act, addJobs, archiveOf, remove } from "./api.js";
import { announce, button, byId, fill, h, icon, loaded, spoken, toast } from "./dom.js";
import { maskButton, maskLayer, painter } from "./masks.js";
import { addSample, choose } from "./photos.js";
import { applySettings, describe } from "./settings.js";
import { beforeAfter } from "./slider.js";
import { changed, draftOf, hasPicture, isActive, isEarly, mapOf, maskOf, setMask, photoOf, photoView, previewOf, putJobs, show, state, viewOf, watch } from "./state.js";

const stage = byId("stage");
let drawn = "";
let zoomed = false;
let mapped = false;

/** A key of what the stage shows: it is drawn anew only when that changes, so that a slider keeps its place. */
function keyOf() {
  const { shown } = state;
  if (shown.kind === "compare") return `compare ${state.compared.join()}`;
  if (shown.kind === "photo") return `photo ${shown.id} ${maskOf(shown.id)}`;
  if (shown.kind !== "job") return `${shown.kind} ${shown.id || ""}`;
  const job = state.jobs.get(shown.id);
  return job ? `job ${job.id} ${job.status} ${hasPicture(job) ? job.ended : ""} ${job.message || ""}` : "empty";
}

function draw() {
  const key = keyOf();
  if (key === drawn) {
    update();
    return;
  }
  drawn = key;
  const { shown } = state;
  stage.dataset.kind = shown.kind;
  if (shown.kind === "compare") drawCompared();
  else if (shown.kind === "photo" && photoOf(shown.id)) drawPhoto(photoOf(shown.id));
  else if (shown.kind === "mask" && photoOf(shown.id)) drawMask(photoOf(shown.id), state.jobs.get(shown.job));
  else if (shown.kind === "job" && state.jobs.has(shown.id)) drawJob(state.jobs.get(shown.id));
  else drawInvitation();
}

/** Replace what is on the stage; a keyboard that was there stays there. */
function put(...children) {
  const isFocused = stage.contains(document.activeElement);
  fill(stage, ...children);
  if (isFocused) stage.focus({ preventScroll: true });
}

const isDrawn = (key) => drawn === key;

function drawInvitation() {
  put(h("div", { class: "invite" },
    h("div", { class: "invite-art", "aria-hidden": "true" }, ["watercolor", "van-gogh", "pencil-sketch"].map((name) => h("img", { src: `/static/styles/${name}.webp`, alt: "" }))),
    h("h2", {}, "Drop a photo"),
    h("p", {}, "It is turned into a picture on this machine, and stays on it."),
    h("div", { class: "invite-do" },
      button("Choose photos", "photo", () => byId("files").click(), { shown: true, class: "primary" }),
      button("Try this cup", "play", addSample, { shown: true, class: "quiet" }))));
}

/** A frame that keeps a picture's proportions and fits the stage. */
function frame(photo, ...children) {
  const node = h("div", { class: "frame" }, ...children);
  node.style.setProperty("--w", photo.width);
  node.style.setProperty("--h", photo.height);
  return h("div", { class: "canvas", "data-zoom": zoomed ? "own" : "fit" }, node);
}

async function drawPhoto(photo) {
  const key = drawn;
  const [image, layer] = await Promise.all([loaded(photoView(photo), photo.name), maskOf(photo.id) && maskLayer(photo)]);
  if (!isDrawn(key)) return;
  const facts = h("p", { class: "facts" }, h("strong", {}, photo.name), ` ${photo.width} × ${photo.height}`);
  put(frame(photo, image || missing("The photo cannot be shown"), ...(layer ? [layer] : [])),
    h("div", { class: "under" }, facts, h("div", { class: "tools" }, maskButton(photo, () => show({ kind: "mask", id: photo.id })))));
}

/** Show the photo with the relevance map of a picture, if it has one, and let its mask be painted. */
async function drawMask(photo, job) {
  const key = drawn;
  const map = job?.relevance ? mapOf(job) : null;
  const [image, layer, over] = await Promise.all([loaded(photoView(photo), photo.name), maskLayer(photo), map && loaded(map, "")]);
  if (!isDrawn(key)) return;
  const painting = painter(photo, layer, () => show(job ? { kind: "job", id: job.id } : { kind: "photo", id: photo.id }));
  over?.classList.add("map");
  put(frame(photo, image || missing("The photo cannot be shown"), ...(over ? [over] : []), layer, painting.cursor), h("div", { class: "under" }, painting.tools));
  layer.focus({ preventScroll: true });
}

const missing = (words) => h("p", { class: "missing" }, words);

async function drawJob(job) {
  const key = drawn;
  const photo = photoOf(job.photo) || { width: 4, height: 3, name: "photo" };
  if (hasPicture(job)) await drawResult(job, photo, key);
  else await drawPending(job, photo, key);
  if (isDrawn(key)) update();
}

async function drawResult(job, photo, key) {
  const alt = `${photo.name} in the style ${spoken(job.settings.style)}`;
  const [before, after] = await Promise.all([loaded(photoView(photo), photo.name), loaded(viewOf(job), alt)]);
  if (!isDrawn(key)) return;
  if (!after || !before) {
    put(frame(photo, missing("The picture cannot be shown")), under(job, photo));
    return;
  }
  const both = beforeAfter(before, after);
  const view = frame(photo, both);
  if (job.relevance) both.append(h("img", { class: "map", src: mapOf(job), alt: "", hidden: !mapped }));
  put(view, under(job, photo));
}

const beingMade = (photo) => `${photo?.name || "photo"}, being made`;

async function drawPending(job, photo, key) {
  const preview = isEarly(job) && draftOf(job) ? 0 : job.preview;
  const image = await loaded(preview ? previewOf(job) : photoView(photo), beingMade(photo));
  if (!isDrawn(key)) return;
  const view = frame(photo, image || missing("The photo cannot be shown"));
  view.firstChild.dataset.status = job.status;
  view.firstChild.dataset.preview = preview;
  view.firstChild.append(h("div", { class: "progress", role: "progressbar", "aria-label": "Progress", "aria-valuemin": "0" }, h("span", {})));
  put(view, under(job, photo));
}

/** Show what the style's generator makes of the photo, until the run has come further. */
async function showDraft(job) {
  const box = stage.querySelector(".frame");
  if (!box || box.dataset.drafting === draftOf(job)) return;
  box.dataset.drafting = draftOf(job);
  const image = await loaded(draftOf(job), `${photoOf(job.photo)?.name || "photo"}, a draft`);
  if (!image) box.dataset.draftless = "";
  if (!image || !box.isConnected || !isEarly(state.jobs.get(job.id) || job)) return;
  box.querySelector("img").replaceWith(image);
  box.append(h("span", { class: "tag left" }, "draft"));
  box.dataset.draft = "";
}

function under(job, photo) {
  return h("div", { class: "under" },
    h("p", { class: "facts" }, h("strong", {}, photo.name), " ", describe(job.settings), job.settings.caption ? ` · “${job.settings.caption}”` : ""),
    h("p", { class: "now", id: "now" }),
    h("div", { class: "tools", "data-many": hasPicture(job) }, tools(job, photo)));
}

function tools(job, photo) {
  const same = button("Use settings", "sliders", () => reuse(job), { shown: true, title: "Put these settings into the form" });
  switch (job.status) {
    case "running":
      return [button("Stop and keep", "stop", () => tell(job, "stop"), { shown: true }), button("Cancel", "close", () => tell(job, "cancel"), { shown: true })];
    case "queued":
      return [button("Cancel", "close", () => tell(job, "cancel"), { shown: true })];
    case "done":
    case "stopped":
      return [
        h("a", { class: "tool strong", href: `/api/jobs/${job.id}/picture`, download: "" }, icon("download"), h("span", {}, "Download")),
        job.status === "stopped" && button("Go on", "play", () => tell(job, "resume"), { shown: true }),
        button("Another", "dice", () => another(job, photo), { shown: true, title: "The same with another seed" }),
        same,
        photoOf(job.photo) && maskButton(photo, () => show({ kind: "mask", id: photo.id, job: job.id })),
        job.relevance && button("Map", "map", toggleMap, { shown: true, "aria-pressed": String(mapped), title: "Where the style acts" }),
        button("Own size", "zoom", toggleZoom, { shown: true, "aria-pressed": String(zoomed), title: "Every pixel of the picture" }),
        button("Remove", "trash", () => drop(job)),
      ];
    default:
      return [button(job.status === "failed" ? "Try again" : "Make it after all", "again", () => tell(job, "resume"), { shown: true }), same, button("Remove", "trash", () => drop(job))];
  }
}

function toggleMap(event) {
  mapped = !mapped;
  event.currentTarget.setAttribute("aria-pressed", mapped);
  const map = stage.querySelector(".map");
  if (map) map.hidden = !mapped;
  update();
}

function toggleZoom(event) {
  zoomed = !zoomed;
  event.currentTarget.setAttribute("aria-pressed", zoomed);
  stage.querySelector(".canvas").dataset.zoom = zoomed ? "own" : "fit";
}

async function tell(job, action) {
  try {
    putJobs([await act(job.id, action)]);
  } catch (error) {
    toast(error.message, error.hint, true);
  }
}

async function another(job, photo) {
  try {
    const seed = Math.floor(Math.random() * 2 ** 31);
    const { mask, ...settings } = job.settings;
    const { jobs } = await addJobs([photo.id], { ...settings, seed }, mask ? { [photo.id]: mask } : {});
    putJobs(jobs);
    show({ kind: "job", id: jobs[0].id });
  } catch (error) {
    toast(error.message, error.hint, true);
  }
}

function reuse(job) {
  applySettings(job.settings);
  const photo = photoOf(job.photo);
  if (photo?.listed) {
    setMask(photo.id, job.settings.mask);
    choose([photo.id]);
  } else toast("The settings are back", "Its photo is not in the list any more; drop it again.");
}

async function drop(job) {
  try {
    await remove(job.id);
    putJobs([{ ...job, status: "removed" }]);
    announce("Removed");
  } catch (error) {
    toast(error.message, error.hint, true);
  }
}

/** Bring what is drawn up to date: words, progress, preview. */
function update() {
  const job = state.shown.kind === "job" ? state.jobs.get(state.shown.id) : null;
  const now = byId("now");
  if (!job || !now) return;
  const words = sentence(job);
  if (now.textContent !== words) now.textContent = words;
  now.toggleAttribute("data-problem", job.status === "failed");
  const bar = stage.querySelector(".progress");
  if (bar) {
    const share = job.total ? job.iteration / job.total : 0;
    bar.style.setProperty("--done", share);
    bar.toggleAttribute("data-waiting", job.status === "running" && !job.iteration);
    bar.setAttribute("aria-valuemax", job.total || 1);
    bar.setAttribute("aria-valuenow", job.iteration);
    bar.setAttribute("aria-valuetext", words);
  }
  const draftless = stage.querySelector(".frame")?.dataset.draftless !== undefined;
  if (isActive(job) && isEarly(job) && draftOf(job) && !draftless) showDraft(job);
  else if (job.status === "running" && job.preview) showPreview(job);
}

let fetching = "";

async function showPreview(job) {
  const box = stage.querySelector(".frame");
  const src = previewOf(job);
  if (!box || box.dataset.preview === String(job.preview) || fetching === src) return;
  fetching = src;
  const image = await loaded(src, beingMade(photoOf(job.photo)));
  const old = box.querySelector("img");
  if (image && old && box.isConnected) {
    old.replaceWith(image);
    delete box.dataset.draft;
    box.querySelector(".tag")?.remove();
    box.dataset.preview = job.preview;
  }
}

/** How a job stands, in words. */
export function sentence(job) {
  switch (job.status) {
    case "queued": {
      const place = state.line[job.id];
      return place > 1 ? `Number ${place} in the queue` : "Next in the queue";
    }
    case "running":
      if (job.requested === "stop") return "Stopping after this iteration";
      if (job.requested === "cancel") return "Cancelling";
      if (job.stage) return `${job.stage[0].toUpperCase()}${job.stage.slice(1)} …`;
      return `${job.iteration} of ${job.total}${job.seconds_left === null ? "" : ` · ${duration(job.seconds_left)} left`}`;
    case "stopped":
      return `Stopped after ${job.iteration} of ${job.total}, and kept`;
    case "failed":
      return [job.message, job.hint].filter(Boolean).join(" – ");
    case "cancelled":
      return "Cancelled";
    default:
      return mapped && job.relevance ? `The map: ${percent(job.relevance[0])} of the style where it is clear, ${percent(job.relevance[1])} where it is blue` : "";
  }
}

const percent = (value) => `${Math.round(100 * value)} %`;

/** Seconds as people say them. */
export function duration(seconds) {
  if (seconds < 8) return "a few seconds";
  if (seconds < 55) return `about ${Math.round(seconds / 5) * 5} s`;
  if (seconds < 3300) return `about ${Math.max(1, Math.round(seconds / 60))} min`;
  return `about ${Math.round(seconds / 360) / 10} h`;
}

async function drawCompared() {
  const key = drawn;
  const jobs = state.compared.map((id) => state.jobs.get(id)).filter(Boolean);
  const images = await Promise.all(jobs.map((job) => loaded(viewOf(job), describe(job.settings))));
  if (!isDrawn(key)) return;
  const cells = jobs.map((job, index) => h("figure", {}, images[index] || missing("The picture cannot be shown"),
    h("figcaption", {}, h("span", {}, h("strong", {}, photoOf(job.photo)?.name || ""), ` ${describe(job.settings)}`), button("Look at it", "zoom", () => show({ kind: "job", id: job.id })))));
  const grid = h("div", { class: "compare", "data-count": jobs.length }, cells);
  put(grid, h("div", { class: "under" }, h("p", { class: "facts" }, `${jobs.length} pictures side by side`),
    h("div", { class: "tools" }, h("a", { class: "tool", href: archiveOf(jobs.map((job) => job.id)), download: "" }, icon("download"), h("span", {}, `Download ${jobs.length}`)), button("Done", "check", leave, { shown: true }))));
}

function leave() {
  const [first] = state.compared;
  state.compared = [];
  changed("jobs");
  show({ kind: "job", id: first });
}

/** Draw the stage, now and whenever it changes. */
export function startStage() {
  watch(["shown", "jobs", "line", "photos", "masks"], draw);
  draw();
}
