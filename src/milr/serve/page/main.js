// Which view is shown, by the address after "#": every view has a link of its own.

import { ApiError, get, setKey } from "./api.js";
import { field, h, say } from "./dom.js";
import { race } from "./race.js";
import { compare, run, runs } from "./runs.js";
import { server } from "./server.js";
import { watch } from "./watch.js";

const root = document.getElementById("content");
let leave = new AbortController();

function choose(words, query) {
  const [view, ...rest] = words;
  if (view === "race") return [race, ...rest.slice(0, 4)];
  if (view === "compare" && rest.length === 2) return [compare, ...rest];
  if (view === "runs") return rest.length ? [run, ...rest] : [runs, query];
  if (view === "server") return [server];
  return [watch, ...rest.slice(0, 1)];
}

async function open() {
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const words = path.split("/").filter(Boolean).map(decodeURIComponent);
  const [view, ...rest] = choose(words, query);
  const section = words[0] === "compare" ? "runs" : (words[0] ?? "watch");
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${section}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `milr: ${section}`;
  say("");
  const part = h("div", {});
  root.replaceChildren(part);
  try {
    await view(part, signal, ...rest);
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof ApiError && error.status === 401) askForKey();
    else say(error.message);
  }
}

function askForKey() {
  const input = h("input", { type: "password", autocomplete: "current-password", required: true });
  const form = h("form", { onsubmit: enter }, field("API key", input, "Ask the person who runs this server for one. It is kept until this tab is closed."), h("button", { type: "submit", class: "main" }, "Enter"));
  root.replaceChildren(h("h2", {}, "A key is needed"), form);
  input.focus();
  async function enter(event) {
    event.preventDefault();
    setKey(input.value.trim());
    await get("/v1/models").then(open, (error) => say(error.message));
  }
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  root.focus();
});
window.addEventListener("hashchange", open);
open();
