"use strict";
for (const section of document.querySelectorAll("[data-style]")) {
  const slider = section.querySelector(".slider");
  const range = section.querySelector(".range");
  if (!slider || !range) continue;
  const [after, before] = slider.querySelectorAll("img");
  const caption = section.querySelector(".shown");
  range.addEventListener("input", () => slider.style.setProperty("--at", `${range.value}%`));
  const buttons = [...section.querySelectorAll(".sheet button")];
  const show = (button) => {
    const row = button.closest("tr");
    before.src = row.querySelector("img").src;
    after.src = button.querySelector("img").src;
    after.alt = button.querySelector("img").alt;
    caption.textContent = button.dataset.label;
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
  };
  for (const button of buttons) button.addEventListener("click", () => show(button));
  if (buttons.length) show(buttons[0]);
}
