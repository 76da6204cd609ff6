// The server: what waits, what is drawn, and by which workers.

import { get } from "./api.js";
import { h } from "./dom.js";

const SECONDS = 2;
const many = (count, one, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;

function row(model, worker) {
  const state = worker.ready ? (worker.open ? `has ${many(worker.open, "task")}` : "waits for a task") : "loads";
  const cells = [model, worker.name, state, worker.tasks, worker.images, `${Math.round(worker.busy * 100)} %`];
  return h("tr", {}, ...cells.map((cell) => h("td", {}, String(cell))));
}

function describe(told) {
  const rows = told.data.flatMap((model) => model.workers.map((worker) => row(model.id, worker)));
  const heads = ["Model", "Worker", "State", "Tasks done", "Images drawn", "Busy"];
  const table = h("div", { class: "scroll words", tabindex: "0", role: "region", "aria-label": "Workers" }, h("table", {},
    h("thead", {}, h("tr", {}, ...heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, ...rows)));
  return [
    h("p", {}, `${many(told.running, "image")} in progress, ${told.waiting} waiting.`),
    ...told.data.filter((model) => !model.loaded).map((model) => h("p", {}, `${model.id} is not in memory: it is loaded when it is asked for.`)),
    ...told.data.filter((model) => model.loaded && !model.workers.length).map((model) => h("p", {}, `${model.id} draws in the server's own process.`)),
    ...told.data.filter((model) => model.replaced).map((model) => h("p", {}, `${model.id}: ${many(model.replaced, "worker has", "workers have")} died and been replaced; their tasks went on in others.`)),
    ...(rows.length ? [table] : []),
  ];
}

export async function server(part, signal) {
  const facts = h("div", {});
  part.replaceChildren(h("h2", {}, "Server"), facts);
  for (;;) {
    const told = await get("/v1/workers");
    if (signal.aborted) return;
    const [line, ...rest] = describe(told);
    if (facts.dataset.told !== JSON.stringify(told)) facts.replaceChildren(line, ...rest);
    facts.dataset.told = JSON.stringify(told);
    await new Promise((done) => setTimeout(done, SECONDS * 1000));
    if (signal.aborted) return;
  }
}
