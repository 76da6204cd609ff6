// The race: one prompt by the method, by its zero-gradient control, and by best-of-N, side by side.

import { follow, post, show } from "./api.js";
import { drawChart } from "./chart.js";
import { h, number, say, unique } from "./dom.js";
import { makePrompt, readSchema } from "./settings.js";
import { linesOf } from "./viewer.js";

export async function race(root, signal) {
  const { models } = await readSchema();
  const best = Object.values(models)[0].best;
  const { method = "milr", ...own } = best;
  const runners = [
    { name: [method, ...Object.values(own)].join(", "), method, settings: own },
    { name: "its zero-gradient control", method: "milr", settings: { strategy: own.strategy ?? "joint", gradient: "zero" } },
    { name: "best of N", method: "best-of-n", settings: {} },
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

  function draw() {
    const axis = form.querySelector("input:checked").value;
    for (const one of running) {
      if (!one.steps.length) continue;
      const last = one.steps.at(-1);
      show(one.image, last.best.url);
      one.image.alt = `best image by ${one.name}; reward ${number(last.best.reward)}`;
      one.facts.textContent = `reward ${number(last.best.reward)} after ${last.drawings.toFixed(1)} images, ${last.seconds.toFixed(1)} s${last.finished ? `; ${last.finished}` : ""}`;
      one.chart.replaceChildren(drawChart({ title: one.name, xLabel: axis === "drawings" ? "images" : "s", lines: linesOf(one.steps, (step) => step[axis], false) }));
    }
  }

  async function begin(event) {
    event.preventDefault();
    const seed = Math.floor(Math.random() * 2 ** 31);
    try {
      running = await Promise.all(
        runners.map(async (one) => {
          const asked = { tasks: [prompt.input.value], method: one.method, settings: { ...one.settings, seed } };
          const { id } = await post("/v1/searches", asked);
          return { ...one, id, steps: [], image: h("img", { alt: "" }), facts: h("p", { class: "faint" }, "waiting …"), chart: h("div", {}) };
        }),
      );
    } catch (error) {
      say(error.message);
      return;
    }
    lanes.replaceChildren(...running.map((one) => h("section", {}, h("h3", {}, h("a", { href: `#/runs/${one.id}` }, one.name)), h("div", { class: "picture" }, one.image), one.facts, one.chart)));
    await Promise.all(
      running.map(async (one) => {
        for await (const { kind, data } of follow(one.id, signal)) {
          if (kind === "step" || kind === "image") one.steps.push(data);
          if (kind === "end" && data.error) one.facts.textContent = data.error;
          draw();
        }
      }),
    ).catch((error) => say(error.message));
  }
}
