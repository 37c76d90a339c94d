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

/** Put jobs into the state; those that were removed leave it. */
export function putJobs(jobs) {
  for (const job of jobs) {
    state.revision = Math.max(state.revision, job.revision);
    if (job.status === "removed") dropJob(job.id);
    else state.jobs.set(job.id, job);
  }
  changed("jobs");
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
  return style?.draft ? `/api/photos/${job.photo}/drafts/${encodeURIComponent(style.name)}?v=${style.draft}` : null;
};
export const photoView = (photo) => `/api/photos/${photo.id}/view`;
export const photoThumb = (photo) => `/api/photos/${photo.id}/thumb`;
