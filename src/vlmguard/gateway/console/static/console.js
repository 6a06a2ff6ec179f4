// What the pages need beyond htmx: a trial that fills the page piece by piece, examples to click, and errors in place.
"use strict";

document.addEventListener("click", (event) => {
  const example = event.target.closest("[data-prompt]");
  if (!example) return;
  const prompt = document.getElementById("prompt");
  prompt.value = example.dataset.prompt;
  prompt.focus();
});

document.addEventListener("submit", (event) => {
  if (event.target.id !== "try") return;
  event.preventDefault();
  judge(event.target);
});

// An answer with an error status still says what went wrong: it is shown where the content would have stood.
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.xhr.status >= 400) {
    event.detail.shouldSwap = true;
    event.detail.isError = false;
  }
});

document.addEventListener("htmx:sendError", (event) => {
  const place = event.detail.target;
  if (place && place.id !== "newer") say(place, "The gateway cannot be reached. Try again.");
});

function say(place, text) {
  const line = document.createElement("p");
  line.className = "error";
  line.setAttribute("role", "alert");
  line.textContent = text;
  place.replaceChildren(line);
}

async function judge(form) {
  const status = document.getElementById("try-status");
  const button = form.querySelector("button.primary");
  for (const id of ["pictures", "evidence", "report", "rewrite", "guarded", "unguarded"]) {
    document.getElementById("try-" + id).replaceChildren();
  }
  document.getElementById("try-result").hidden = true;
  document.getElementById("try-answers").hidden = !form.elements.ask.checked;
  const unguarded = form.elements.ask_unguarded;
  document.getElementById("try-other").hidden = !(unguarded && unguarded.checked);
  const busy = document.createElement("p");
  busy.className = "busy";
  busy.append(Object.assign(document.createElement("span"), { className: "dot" }), "Judging…");
  status.replaceChildren(busy);
  button.disabled = true;
  try {
    const headers = { "HX-Request": "true" };
    const answer = await fetch(form.action, { method: "POST", body: new FormData(form), headers });
    if (!answer.ok) {
      status.innerHTML = await answer.text(); // the server's own page, escaped there
      return;
    }
    await eachLine(answer.body.getReader(), place);
  } catch (error) {
    say(status, "The gateway cannot be reached, or broke off. Try again.");
  } finally {
    button.disabled = false;
    if (status.contains(busy)) busy.remove();
  }
}

async function eachLine(reader, take) {
  const decoder = new TextDecoder();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    waiting += decoder.decode(value, { stream: !done });
    const lines = waiting.split("\n");
    waiting = lines.pop();
    for (const line of lines) if (line) take(JSON.parse(line));
    if (done) return;
  }
}

function place(piece) {
  const into = document.getElementById(piece.into);
  if (piece.into !== "try-status") document.getElementById("try-result").hidden = false;
  if ("html" in piece) into.innerHTML = piece.html; // made by the server's templates, which escape
  else into.append(piece.text);
}
