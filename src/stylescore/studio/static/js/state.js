// What the page knows: photos, jobs, what is chosen and shown. Parts redraw when what they name changes.

export const state = {
  styles: [],
  photos: [],
  uploading: [],
  jobs: new Map(),
  line: {},
  rules: {},
  limits: {},
  storage: { used: 0, most: 1 },
  chosen: new Set(),
  shown: { kind: "empty" },
  compared: [],
  masks: read("masks"),
  revision: 0,
};

/** What this browser stores under a name. */
function read(name) {
  try {
    return JSON.parse(localStorage.getItem(name) || "{}");
  } catch {
    return {};
  }
}

const listeners = new Map();

/** Call `draw` when one of these parts changed. */
export function watch(parts, draw) {
  for (const part of parts) listeners.set(part, [...(listeners.get(part) || []), draw]);
}

/** Say that parts changed; each listener is called once. */
export function changed(...parts) {
  for (const draw of new Set(parts.flatMap((part) => listeners.get(part) || []))) draw();
}

export const photoOf = (id) => state.photos.find((photo) => photo.id === id);
export const listedPhotos = () => state.photos.filter((photo) => photo.listed);
export const maskOf = (photo) => state.masks[photo] ?? null;
export const isActive = (job) => job.status === "queued" || job.status === "running";
export const hasPicture = (job) => job.status === "done" || job.status === "stopped";

/** Jobs, the newest first. */
export const newestFirst = () => [...state.jobs.values()].sort((a, b) => b.number - a.number);

/** Show a photo, a job, several pictures or the invitation on the stage. */
export function show(shown) {
  state.shown = shown;
  if (shown.kind === "job") sessionStorage.setItem("job", shown.id);
  changed("shown");
}

/** Give a photo a mask, or none; this browser remembers it. */
export function setMask(photo, mask) {
  if (mask === null) delete state.masks[photo];
  else state.masks[photo] = mask;
  localStorage.setItem("masks", JSON.stringify(state.masks));
  changed("masks");
}

/** The masks of some photos, as the studio takes them. */
export const masksOf = (photos) => Object.fromEntries(photos.filter(maskOf).map((photo) => [photo, maskOf(photo)]));

/** Put jobs into the state; those that were removed leave it, and what is older than what is known changes nothing. */
export function putJobs(jobs) {
  for (const job of jobs) {
    state.revision = Math.max(state.revision, job.revision);
    if (job.status === "removed") dropJob(job.id);
    else if (!(state.jobs.get(job.id)?.revision > job.revision)) state.jobs.set(job.id, job);
  }
  changed("jobs");
}

/** Put all jobs of the server into the state; `known` is what was there before they were asked for. */
export function putAllJobs(jobs, known) {
  const meanwhile = [...state.jobs.values()].filter((job) => known.get(job.id) !== job);
  const isGone = (id) => known.has(id) && !state.jobs.has(id);
  state.jobs = new Map(jobs.filter(({ id }) => !isGone(id)).map((job) => [job.id, job]));
  putJobs([...state.jobs.values(), ...meanwhile]);
}

/** Put the styles that a server has into the state. */
export function putStyles(styles) {
  if (JSON.stringify(styles) === JSON.stringify(state.styles)) return;
  state.styles = styles;
  changed("styles");
}

function dropJob(id) {
  state.jobs.delete(id);
  state.compared = state.compared.filter((other) => other !== id);
  if (state.shown.kind === "job" && state.shown.id === id) showSomething();
}

/** Show what is most likely wanted: the newest picture, else the last photo, else the invitation. */
export function showSomething() {
  const [job] = newestFirst();
  const photo = listedPhotos().at(-1);
  if (job) show({ kind: "job", id: job.id });
  else if (photo) show({ kind: "photo", id: photo.id });
  else show({ kind: "empty" });
}

export const viewOf = (job) => `/api/jobs/${job.id}/view?v=${job.ended}`;
export const thumbOf = (job) => `/api/jobs/${job.id}/thumb?v=${job.ended}`;
export const previewOf = (job) => `/api/jobs/${job.id}/preview?v=${job.preview}-${job.created}`;
export const mapOf = (job) => `/api/jobs/${job.id}/relevance?v=${job.total}`;
export const maskView = (photo, mask) => `/api/photos/${photo}/masks/${mask}`;
export const draftOf = (job) => {
  const style = state.styles.find(({ name }) => name === job.settings.style);
  if (style?.draft) return `/api/photos/${job.photo}/drafts/${encodeURIComponent(style.name)}?v=${style.draft}`;
  return job.draft ? `/api/jobs/${job.id}/draft` : null;
};
/** Whether a draft shows more of what a picture will be than the picture as it stands. */
export const isEarly = (job) => !job.preview || job.iteration < job.total / 4;
export const photoView = (photo) => `/api/photos/${photo.id}/view`;
export const photoThumb = (photo) => `/api/photos/${photo.id}/thumb`;
