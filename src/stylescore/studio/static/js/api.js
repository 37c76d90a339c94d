// Requests to the studio, and the stream of what changes.

export class Refused extends Error {
  constructor(status, { message, hint }) {
    super(message || `the studio answered ${status}`);
    this.status = status;
    this.hint = hint || "";
  }
}

async function send(method, path, { body, headers = {} } = {}) {
  let response;
  try {
    response = await fetch(path, { method, body, headers: { "X-Stylescore": "page", ...headers }, cache: "no-store" });
  } catch {
    throw new Refused(0, { message: "the studio does not answer", hint: "is the program still running?" });
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, answer);
  return answer;
}

const json = (table) => ({ body: JSON.stringify(table), headers: { "Content-Type": "application/json" } });

export const getState = () => send("GET", "/api/state");
export const addJobs = (photos, settings, masks, own_captions = false) => send("POST", "/api/jobs", json({ photos, settings, masks, own_captions }));
export const saveMask = (photo, body) => send("POST", `/api/photos/${photo}/masks`, { body, headers: { "Content-Type": "image/png" } });
export const wantCaption = (id) => send("POST", `/api/photos/${id}/caption`, json({}));
export const getCaption = (id) => send("GET", `/api/photos/${id}/caption`);
export const removePhoto = (id) => send("DELETE", `/api/photos/${id}`);

export function getConstants(style, mixed) {
  const also = new URLSearchParams(mixed.map((name) => ["also", name]));
  return send("GET", `/api/styles/${encodeURIComponent(style)}/constants?${also}`);
}

/** The address of an archive of some pictures, or of all. */
export const archiveOf = (ids = []) => `/api/archive?${new URLSearchParams(ids.map((id) => ["job", id]))}`;
export const act = (id, action) => send("POST", `/api/jobs/${id}/${action}`, json({}));
export const cancelWaiting = () => send("POST", "/api/cancel", json({}));
export const remove = (id) => send("DELETE", `/api/jobs/${id}`);
export const clear = () => send("POST", "/api/clear", json({}));

export function upload(file, name, asPhoto = false) {
  const headers = { "Content-Type": "application/octet-stream", "X-Name": encodeURIComponent(name) };
  return send("POST", asPhoto ? "/api/photos?as=photo" : "/api/photos", { body: file, headers });
}

/**
 * Listen to what changes while the page is seen; a hidden tab lets go, as browsers allow few connections.
 * `lastRevision` says from where to go on.
 */
export function listen({ lastRevision, onjobs, online, onanswer, onsilence }) {
  let source = null;
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource(`/api/events?after=${lastRevision()}`);
    source.onopen = onanswer;
    source.addEventListener("jobs", (event) => onjobs(JSON.parse(event.data)));
    source.addEventListener("line", (event) => online(JSON.parse(event.data)));
    source.onerror = () => {
      onsilence();
      if (source?.readyState === EventSource.CLOSED) {
        close();
        setTimeout(open, 2000);
      }
    };
  };
  const close = () => {
    source?.close();
    source = null;
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);
  open();
}
