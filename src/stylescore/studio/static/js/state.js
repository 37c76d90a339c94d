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
  revision: 0,
};

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
  const photo = state.photos.at(-1);
  if (job) show({ kind: "job", id: job.id });
  else if (photo) show({ kind: "photo", id: photo.id });
  else show({ kind: "empty" });
}

export const viewOf = (job) => `/api/jobs/${job.id}/view?v=${job.ended}`;
export const thumbOf = (job) => `/api/jobs/${job.id}/thumb?v=${job.ended}`;
export const previewOf = (job) => `/api/jobs/${job.id}/preview?v=${job.preview}-${job.created}`;
export const mapOf = (job) => `/api/jobs/${job.id}/relevance?v=${job.total}`;
export const photoView = (photo) => `/api/photos/${photo.id}/view`;
export const photoThumb = (photo) => `/api/photos/${photo.id}/thumb`;
