"use strict";
const at = (id) => document.getElementById(id);
const keys = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" };
let state = null;
let busy = false;
let shown = -1;

function picture(task, side) {
  return `picture/${task}/${side}`;
}

function show() {
  const step = state.current;
  at("progress").max = state.total;
  at("progress").value = state.done;
  at("count").textContent = `${state.done} of ${state.total}`;
  at("undo").disabled = state.previous === null;
  at("tie").disabled = step === null;
  at("main").hidden = step === null;
  if (step === null) {
    at("question").textContent = "Finished. Thank you!";
    return;
  }
  at("question").textContent = step.text;
  if (shown !== step.task) {
    shown = step.task;
    at("left").firstChild.src = picture(step.task, "left");
    at("right").firstChild.src = picture(step.task, "right");
    at("photo-figure").hidden = !step.has_photo;
    if (step.has_photo) at("photo").src = picture(step.task, "photo");
    at("style-figure").hidden = !state.has_style;
    if (state.has_style && !at("style").getAttribute("src")) at("style").src = "style";
    at("references").hidden = !step.has_photo && !state.has_style;
  }
}

async function ask(path, body) {
  if (busy) return;
  busy = true;
  try {
    const options = body === undefined ? {} : {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    };
    const response = await fetch(path, options);
    if (!response.ok) throw new Error(await response.text());
    state = await response.json();
    at("message").textContent = "";
    show();
  } catch (error) {
    at("message").textContent = `Not saved: ${error.message}`;
  } finally {
    busy = false;
  }
}

function vote(choice) {
  if (state !== null && state.current !== null) {
    ask("vote", { task: state.current.task, question: state.current.question, choice });
  }
}

function undo() {
  if (state !== null && state.previous !== null) ask("undo", state.previous);
}

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key in keys) {
    event.preventDefault();
    vote(keys[event.key]);
  } else if (event.key === "Backspace") {
    event.preventDefault();
    undo();
  }
});
for (const id of ["left", "right", "tie"]) at(id).addEventListener("click", () => vote(id));
at("undo").addEventListener("click", undo);
ask("state");
