// <before-after>: two pictures on top of each other, and a handle between them.
import { h } from "./dom.js";

const STEP = 2;

class BeforeAfter extends HTMLElement {
  #at = 50;
  #dragging = false;

  connectedCallback() {
    if (this.handle) return;
    this.handle = h("div", {
      class: "handle", role: "slider", tabindex: "0", "aria-label": "Photo to picture", "aria-valuemin": "0", "aria-valuemax": "100",
      onkeydown: (event) => this.#key(event),
    }, h("span", { class: "grip", "aria-hidden": "true" }));
    this.append(this.handle);
    this.addEventListener("pointerdown", (event) => this.#grab(event));
    this.addEventListener("pointermove", (event) => this.#dragging && this.#follow(event));
    for (const name of ["pointerup", "pointercancel"]) this.addEventListener(name, () => (this.#dragging = false));
    this.at = 50;
  }

  /** How much of the photo is seen, in percent from the left. */
  get at() {
    return this.#at;
  }

  set at(value) {
    this.#at = Math.min(100, Math.max(0, value));
    this.style.setProperty("--at", `${this.#at}%`);
    this.handle.setAttribute("aria-valuenow", Math.round(this.#at));
    this.handle.setAttribute("aria-valuetext", `${Math.round(this.#at)} percent photo`);
  }

  /** At its own size the pictures are scrolled, so only the handle is dragged. */
  get scrolls() {
    return this.closest("[data-zoom=own]") !== null;
  }

  #grab(event) {
    if (event.button || (this.scrolls && !this.handle.contains(event.target))) return;
    this.#dragging = true;
    this.setPointerCapture(event.pointerId);
    this.#follow(event);
    this.handle.focus({ preventScroll: true });
    event.preventDefault();
  }

  #follow(event) {
    const box = this.getBoundingClientRect();
    this.at = (100 * (event.clientX - box.left)) / box.width;
  }

  #key(event) {
    const steps = { ArrowLeft: -STEP, ArrowDown: -STEP, ArrowRight: STEP, ArrowUp: STEP, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
    if (!(event.key in steps)) return;
    this.at += steps[event.key];
    event.preventDefault();
  }
}

customElements.define("before-after", BeforeAfter);

/** Return the element for two loaded images. */
export function beforeAfter(before, after) {
  before.classList.add("before");
  after.classList.add("after");
  return h("before-after", {}, after, before, h("span", { class: "tag left", "aria-hidden": "true" }, "photo"), h("span", { class: "tag right", "aria-hidden": "true" }, "picture"));
}
