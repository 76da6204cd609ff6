// The race: one prompt by the method, by its zero-gradient control, and by best-of-N, side by side.

import { follow, get, post, show } from "./api.js";
import { drawChart } from "./chart.js";
import { count, h, number, say, unique } from "./dom.js";
import { makePrompt, readSchema } from "./settings.js";
import { linesOf } from "./viewer.js";

// Returns what a search is in a race; its settings stand in groups.
function nameSearch({ method, settings }) {
  const own = Object.assign({}, ...Object.values(settings ?? {}).filter((one) => one && typeof one === "object"));
  if (own.gradient === "zero") return `its zero-gradient control: ${method}, ${own.strategy}`;
  return method === "best-of-n" ? `best of N: ${own.steps + 1}` : `the method: ${[method, own.strategy].filter(Boolean).join(", ")}`;
}

export async function race(root, signal, ...ids) {
  const { models } = await readSchema();
  const { method = "milr", ...own } = Object.values(models)[0].best;
  const runners = [
    { method, settings: own },
    { method: "milr", settings: { strategy: own.strategy ?? "joint", gradient: "zero" } },
    { method: "best-of-n", settings: {} },
  ];
  const prompt = makePrompt();
  const name = unique("axis");
  const radio = (value, text, checked) => {
    const input = h("input", { type: "radio", name, value, checked, id: unique("radio"), onchange: draw });
    return h("label", { for: input.id }, input, ` ${text}`);
  };
  const axes = h("fieldset", {}, h("legend", {}, "Compare by"), radio("drawings", "images", true), radio("seconds", "seconds"));
  const lanes = h("div", { class: "columns" });
  const form = h("form", { onsubmit: begin }, h("div", { class: "row" }, prompt.node, h("button", { type: "submit", class: "main" }, "Race")), axes);
  root.replaceChildren(
    h("h2", {}, "The race"),
    h("p", { class: "faint" }, "One prompt and seed, three ways to spend images. The dotted grey line is an evaluator that no search optimises: where the reward rises and it does not, the reward is fooled."),
    form,
    lanes,
  );
  let running = [];
  if (ids.length) await open();

  function draw() {
    const axis = form.querySelector("input:checked").value;
    const end = Math.max(1, ...running.flatMap((one) => one.steps.map((step) => step[axis])));
    for (const one of running) {
      if (!one.steps.length) continue;
      const last = one.steps.at(-1);
      show(one.image, last.best.url);
      one.image.alt = `best image by ${one.name}; reward ${number(last.best.reward)}`;
      one.facts.textContent = `reward ${number(last.best.reward)} after ${count(last.drawings, "image")}, ${last.seconds.toFixed(1)} s${last.finished ? `; ${last.finished}` : ""}`;
      const seen = Object.entries(last.panel).map(([who, { first, best }]) => `${who}, which only watches: ${number(first)} → ${number(best)}`);
      one.verdict.textContent = seen.join("; ");
      one.chart.replaceChildren(drawChart({ title: one.name, end, xLabel: axis === "drawings" ? "images" : "s", lines: linesOf(one.steps, (step) => step[axis], false) }));
    }
  }

  async function begin(event) {
    event.preventDefault();
    const seed = Math.floor(Math.random() * 2 ** 31);
    try {
      const made = await Promise.all(runners.map((one) => post("/v1/searches", { tasks: [prompt.input.value], method: one.method, settings: { ...one.settings, seed } })));
      location.hash = `#/race/${made.map((one) => one.id).join("/")}`;
    } catch (error) {
      say(error.message);
    }
  }

  // Shows the searches that the address names, live or as they ended.
  async function open() {
    const found = await Promise.all(ids.map((id) => get(`/v1/searches/${id}`)));
    prompt.input.value = found[0].title;
    running = found.map((one) => ({
      id: one.id,
      name: nameSearch(one),
      steps: [],
      image: h("img", { alt: "" }),
      growing: h("img", { class: "growing", alt: "", hidden: true }),
      facts: h("p", { class: "faint" }, "waiting …"),
      verdict: h("p", { class: "watched" }),
      chart: h("div", {}),
    }));
    lanes.replaceChildren(...running.map((one) => h("section", {}, h("h3", {}, h("a", { href: `#/runs/${one.id}` }, one.name)), h("div", { class: "picture" }, one.image, one.growing), one.facts, one.verdict, one.chart)));
    await Promise.all(
      running.map(async (one) => {
        for await (const { kind, data } of follow(one.id, signal)) {
          one.growing.hidden = kind !== "rows";
          if (kind === "rows") one.growing.src = data.url;
          if (kind === "step" || kind === "image") one.steps.push(data);
          if (kind === "end" && data.error) one.facts.textContent = data.error;
          if (kind !== "rows") draw();
        }
      }),
    ).catch((error) => say(error.message));
  }
}
