// Runs: a gallery, one run with all its prompts, and two runs side by side.

import { follow, get, show } from "./api.js";
import { button, count, field, h, number, say } from "./dom.js";
import { RunView } from "./runview.js";

const PAGE = 24;
let chosen = null; // the run that is compared with the next one

const picture = (path, alt) => {
  const image = h("img", { alt, loading: "lazy" });
  show(image, path);
  return h("div", { class: "picture" }, image);
};

export async function runs(root, signal, query) {
  const known = new URLSearchParams(query ?? "");
  const text = h("input", { type: "search", value: known.get("text") ?? "" });
  const tag = h("input", { type: "text", value: known.get("tag") ?? "" });
  const select = (name, values) => {
    const node = h("select", {}, values.map(([value, said]) => h("option", { value }, said)));
    node.value = known.get(name) ?? "";
    return node;
  };
  const outcome = select("outcome", [["", "any"], ["met", "met"], ["improved", "improved, not met"], ["failed", "not improved"]]);
  const sort = select("sort", [["newest", "newest first"], ["gain", "largest gain first"], ["best", "best reward first"]]);
  sort.value = known.get("sort") ?? "newest";
  const list = h("ul", { class: "cards" });
  const told = h("p", { class: "faint", role: "status" });
  const offset = Number(known.get("offset") ?? 0);
  const go = (at) => {
    const wanted = new URLSearchParams();
    for (const [name, value] of [["text", text.value], ["tag", tag.value], ["outcome", outcome.value], ["sort", sort.value], ["offset", at || ""]]) if (value) wanted.set(name, value);
    location.hash = `#/runs?${wanted}`;
  };
  const form = h(
    "form",
    { onsubmit: (event) => (event.preventDefault(), go(0)) },
    h("div", { class: "row" }, field("Words", text), field("Tag", tag), field("Outcome", outcome), field("Order", sort), h("button", { type: "submit", class: "main" }, "Find")),
  );
  const asked = new URLSearchParams({ text: text.value, tag: tag.value, outcome: outcome.value, sort: sort.value, limit: PAGE, offset });
  const { data, total } = await get(`/v1/searches?${asked}`);
  told.textContent = count(total, "run");
  list.append(
    ...data.map((one) =>
      h(
        "li",
        {},
        one.done ? picture(`/v1/searches/${one.id}/cover`, `best image of ${one.title}`) : null,
        h("h3", {}, h("a", { href: `#/runs/${one.id}` }, one.title.slice(0, 90) || one.id)),
        h("p", { class: "faint" }, `${one.state}, ${one.method}, ${one.done} of ${count(one.wanted, "image")}, ${one.met} met`),
        h("p", {}, one.best === null ? "no reward yet" : `reward ${number(one.first)} → ${number(one.best)} (gain ${one.gain >= 0 ? "+" : ""}${number(one.gain)})`),
        button("", () => choose(one), { "data-run": one.id, "data-title": one.title.slice(0, 60) }),
      ),
    ),
  );
  // The first choice is kept until a second one is compared with it.
  function choose(one) {
    const first = chosen;
    chosen = first === null ? one.id : null;
    if (first !== null && first !== one.id) location.hash = `#/compare/${first}/${one.id}`;
    name();
  }
  function name() {
    for (const node of list.querySelectorAll("button")) {
      const { run: id, title } = node.dataset;
      node.textContent = chosen === null ? "Compare" : chosen === id ? "Chosen: choose another one" : "Compare with the chosen one";
      node.setAttribute("aria-label", `${node.textContent}: ${title}`);
      node.setAttribute("aria-pressed", chosen === id);
    }
  }
  name();
  const pages = h(
    "div",
    { class: "row" },
    button("Newer", () => go(Math.max(0, offset - PAGE)), { disabled: offset === 0 }),
    button("Older", () => go(offset + PAGE), { disabled: offset + PAGE >= total }),
  );
  root.replaceChildren(h("h2", {}, "Runs"), form, told, list, total > PAGE ? pages : "");
}

export async function run(root, signal, id, place = "0.0", step = "") {
  const found = await get(`/v1/searches/${id}`);
  const view = new RunView({
    stem: `/v1/searches/${id}`,
    title: found.title,
    facts: `${found.state}${found.error ? `: ${found.error}` : ""}; ${found.method}; ${found.done} of ${count(found.wanted, "image")}, ${found.met} met`,
    images: found.images,
    place,
    step,
    onmove: (to) => history.replaceState(null, "", `#/runs/${id}/${to}`),
  });
  root.replaceChildren(view.node);
  signal.addEventListener("abort", () => view.close());
  for await (const { kind, data } of follow(id, signal)) view.take(kind, data);
  view.end();
}

export async function compare(root, signal, left, right) {
  const [a, b] = await Promise.all([left, right].map((id) => get(`/v1/searches/${id}`)));
  const keyOf = (one) => `${one.prompt}\n${one.image}`;
  const other = new Map(b.results.map((one) => [keyOf(one), one]));
  const rows = a.results.filter((one) => other.has(keyOf(one))).map((one) => [one, other.get(keyOf(one))]);
  const cell = (one) => h("td", {}, picture(one.best.url, `best image for ${one.prompt}`), h("p", {}, `reward ${number(one.best.reward)}, ${count(one.drawings, "image")}`));
  rows.sort(([x, y], [u, v]) => Math.abs(v.best.reward - u.best.reward) - Math.abs(y.best.reward - x.best.reward));
  root.replaceChildren(
    h("h2", {}, "Two runs, prompt by prompt"),
    rows.length ? "" : h("p", {}, "The two runs have no prompt in common."),
    h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Comparison" },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Prompt"), ...[a, b].map((one) => h("th", { scope: "col" }, h("a", { href: `#/runs/${one.id}` }, `${one.method}: ${one.title.slice(0, 40)}`))))),
        h("tbody", {}, rows.map(([x, y]) => h("tr", {}, h("th", { scope: "row" }, x.prompt), cell(x), cell(y)))),
      ),
    ),
  );
  say("");
}
