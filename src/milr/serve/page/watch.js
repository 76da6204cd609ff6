// Watch a search: type a prompt, see each step, stop and keep the best.

import { follow, get, post, remove } from "./api.js";
import { button, h, say } from "./dom.js";
import { makePrompt, makeSettings } from "./settings.js";
import { Viewer } from "./viewer.js";

export async function watch(root, signal, search) {
  const prompt = makePrompt();
  const settings = await makeSettings();
  const shown = h("div", {});
  const start = h("button", { type: "submit", class: "main" }, "Draw");
  const form = h("form", { onsubmit: begin }, h("div", { class: "row" }, prompt.node, start), settings.node);
  root.replaceChildren(h("h2", {}, "Watch a search"), form, shown);
  if (search) await open(search);

  async function begin(event) {
    event.preventDefault();
    try {
      const made = await post("/v1/searches", { tasks: [prompt.input.value], ...settings.read() });
      location.hash = `#/watch/${made.id}`;
    } catch (error) {
      say(error.message);
    }
  }

  async function open(id) {
    const found = await get(`/v1/searches/${id}`);
    const [first] = found.tasks ?? [];
    const title = first ? (first.typed ?? first.prompt) : found.title;
    prompt.input.value ||= title;
    const stop = button("Stop and keep the best", async () => {
      stop.disabled = true;
      await remove(`/v1/searches/${id}`).catch((error) => say(error.message));
    });
    const viewer = new Viewer({ stem: `/v1/searches/${id}`, place: [0, 0], prompt: title });
    signal.addEventListener("abort", () => viewer.close());
    const state = h("p", { role: "status" }, `${found.state} …`);
    shown.replaceChildren(h("div", { class: "row" }, h("h2", {}, title), stop), state, found.wanted > 1 ? h("p", {}, h("a", { href: `#/runs/${id}` }, `All ${found.wanted} images of this search`)) : "", viewer.node);
    for await (const { kind, data } of follow(id, signal)) {
      if (kind === "state") state.textContent = "drawing …";
      else if (kind === "end") {
        state.textContent = data.error ? `${data.state}: ${data.error}` : data.state;
        state.classList.toggle("bad", Boolean(data.error));
        stop.hidden = true;
      } else if (data.task === 0 && data.image === 0) {
        if (kind === "rows") viewer.grow(data);
        else viewer.add(data);
      }
    }
  }
}
