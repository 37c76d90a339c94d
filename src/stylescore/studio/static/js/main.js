// Starts the page: fetches what is there, listens to what changes, and sends what is asked for.
import { addJobs, archiveOf, clear, getState, listen } from "./api.js";
import { announce, button, byId, fill, h, icon, toast } from "./dom.js";
import { startFilm } from "./film.js";
import { startPhotos } from "./photos.js";
import { masksSaved } from "./masks.js";
import { hasOwnCaptions, hasStyle, settings, startSettings } from "./settings.js";
import { startStage } from "./stage.js";
import { changed, hasPicture, listedPhotos, masksOf, photoOf, putAllJobs, putJobs, putStyles, show, showSomething, state, watch } from "./state.js";

const THEMES = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };
const ICONS = { auto: "auto", light: "sun", dark: "moon" };

async function fetchAll() {
  const known = new Map(state.jobs);
  const found = await getState();
  Object.assign(state, { photos: found.photos, storage: found.storage, limits: found.limits, rules: found.rules });
  putStyles(found.styles);
  putAllJobs(found.jobs, known);
  state.chosen = new Set([...state.chosen].filter((id) => state.photos.some((photo) => photo.id === id && photo.listed)));
  changed("photos", "chosen", "storage");
}

async function begin() {
  for (;;) {
    try {
      await fetchAll();
      break;
    } catch (error) {
      if (error.status === 401) {
        fill(byId("stage"), h("div", { class: "invite" }, h("h2", {}, "This studio needs its token"), h("p", {}, error.hint)));
        return;
      }
      byId("banner").hidden = false;
      await new Promise((resolve) => setTimeout(resolve, 1500));
    }
  }
  byId("banner").hidden = true;
  startSettings();
  const last = sessionStorage.getItem("job");
  if (last && state.jobs.has(last)) show({ kind: "job", id: last });
  else showSomething();
  const photo = listedPhotos().at(-1);
  if (photo) state.chosen.add(photo.id);
  startStage();
  startFilm();
  addEventListener("focus", refreshStyles);
  changed("photos", "chosen", "storage");
  listen({ lastRevision: () => state.revision, onjobs: takeJobs, online: putLine, onanswer: backAgain, onsilence: () => (byId("banner").hidden = false) });
}

/** Put jobs that changed into the state; photos that another tab added come first. */
async function takeJobs(jobs) {
  if (jobs.some((job) => job.status !== "removed" && !photoOf(job.photo))) {
    const found = await getState().catch(() => null);
    if (found) Object.assign(state, { photos: found.photos, storage: found.storage });
    changed("photos", "storage");
  }
  putJobs(jobs);
}

function putLine(line) {
  state.line = line;
  changed("line");
}

async function backAgain() {
  if (byId("banner").hidden) return;
  byId("banner").hidden = true;
  await fetchAll().catch(() => {});
}

async function submit(event) {
  event.preventDefault();
  const problem = byId("problem");
  problem.hidden = true;
  if (state.chosen.size === 0) {
    byId("files").click();
    return;
  }
  byId("go").disabled = true;
  try {
    if (!hasStyle()) throw new Error("there is no style to choose");
    await masksSaved();
    const { jobs } = await addJobs([...state.chosen], settings(), masksOf([...state.chosen]), hasOwnCaptions());
    putJobs(jobs);
    show({ kind: "job", id: jobs[0].id });
    byId("stage").scrollIntoView({ block: "nearest" });
    announce(jobs.length === 1 ? "The picture is in the queue" : `${jobs.length} pictures are in the queue`);
  } catch (error) {
    problem.replaceChildren(error.message, error.hint ? h("small", {}, error.hint) : "");
    problem.hidden = false;
  } finally {
    byId("go").disabled = false;
  }
}

function drawGo() {
  const count = state.chosen.size;
  byId("go").classList.toggle("waits", count === 0);
  byId("go").textContent = count === 0 ? "Choose a photo" : count === 1 ? "Stylize" : `Stylize ${count} photos`;
}

function drawStorage() {
  const percent = Math.round((100 * state.storage.used) / state.storage.most);
  fill(byId("storage"), icon("disk"));
  byId("storage").setAttribute("aria-label", `Storage: ${percent} percent used`);
  byId("storage").title = "Storage";
}

const gibibytes = (bytes) => (bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GB` : `${Math.ceil(bytes / 2 ** 20)} MB`);

async function openStorage() {
  drawDialog();
  byId("dialog").showModal();
  await fetchAll().catch(() => {});
  if (!byId("dialog").open) return;
  drawDialog();
  byId("dialog").querySelector("button").focus();
}

function drawDialog() {
  const dialog = byId("dialog");
  const { used, most } = state.storage;
  const meter = h("meter", { min: 0, max: most, value: used, "aria-label": "Storage used" });
  fill(dialog,
    h("h2", { id: "dialog-title" }, "What is kept"),
    h("p", {}, `Photos and pictures take ${gibibytes(used)} of ${gibibytes(most)} on the studio's machine.`), meter,
    h("p", {}, `Here are ${state.photos.length} photos and ${state.jobs.size} pictures of yours. Clearing removes them for good; a picture that is being made goes on.`),
    h("div", { class: "dialog-do" }, button("Keep all", "check", () => dialog.close(), { shown: true }),
      [...state.jobs.values()].some(hasPicture) && h("a", { class: "tool", href: archiveOf(), download: "" }, icon("download"), h("span", {}, "Download all pictures")),
      button("Clear everything", "trash", clearAll, { shown: true, class: "tool danger" })));
}

async function clearAll() {
  try {
    await clear();
    sessionStorage.removeItem("job");
    state.compared = [];
    await fetchAll();
    byId("dialog").close();
    showSomething();
    announce("Everything is cleared");
  } catch (error) {
    toast(error.message, error.hint, true);
  }
}

function drawTheme() {
  const theme = localStorage.getItem("theme") || "auto";
  document.documentElement.dataset.theme = theme;
  fill(byId("theme"), icon(ICONS[theme]));
  byId("theme").setAttribute("aria-label", THEMES[theme]);
  byId("theme").title = THEMES[theme];
}

function nextTheme() {
  const names = Object.keys(THEMES);
  localStorage.setItem("theme", names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
  drawTheme();
}

/** Style files may have been added while the page was not looked at. */
async function refreshStyles() {
  const found = await getState().catch(() => null);
  if (found) putStyles(found.styles);
}

drawTheme();
byId("theme").addEventListener("click", nextTheme);
byId("storage").addEventListener("click", openStorage);
byId("panel").addEventListener("submit", submit);
watch(["chosen"], drawGo);
watch(["storage"], drawStorage);
startPhotos();
begin();
