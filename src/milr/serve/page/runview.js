// One run with all its prompts: on the server's page, and in a file of its own (`milr report RUN --viewer`).

import { show } from "./api.js";
import { field, h, number } from "./dom.js";
import { Viewer } from "./viewer.js";

export class RunView {
  // `place` and `step`: what is shown first; `onmove` is called with both, as an address names them.
  constructor({ stem, title, facts, images = 1, place = "0.0", step = "", onmove = () => {} }) {
    Object.assign(this, { stem, images, place, wanted: step, onmove, viewers: new Map() });
    this.select = h("select", { onchange: () => this.choose(this.select.value) });
    this.shown = h("div", {});
    this.before = h("div", {});
    this.node = h("div", {}, h("h2", {}, title.slice(0, 200)), h("p", { class: "faint" }, facts), field("Prompt and image", this.select), this.shown, this.before);
  }

  // Takes one event of the run.
  take(kind, data) {
    if (kind !== "step" && kind !== "image" && kind !== "rows") return;
    const key = `${data.task}.${data.image}`;
    if (kind === "rows") {
      this.viewers.get(key)?.grow(data);
      return;
    }
    if (!this.viewers.has(key)) {
      const onstep = (step) => key === this.place && this.ready && this.onmove(`${key}/${step}`);
      this.viewers.set(key, new Viewer({ stem: this.stem, place: [data.task, data.image], prompt: data.prompt, onstep }));
      this.select.append(h("option", { value: key }, `${data.prompt}${this.images > 1 ? `, image ${data.image + 1}` : ""}`));
      if (key === this.place) this.choose(key);
      else this.select.value = this.place;
    }
    this.viewers.get(key).add(data);
  }

  choose(key) {
    const viewer = this.viewers.get(key);
    if (!viewer) return;
    this.place = this.select.value = key;
    this.shown.replaceChildren(viewer.node);
    viewer.draw();
    this.compare();
    if (this.ready) this.onmove(`${key}/${viewer.now?.step ?? 0}`);
  }

  // The run has ended: the step that an address names is shown.
  end() {
    const viewer = this.viewers.get(this.place);
    const at = viewer && this.wanted !== "" ? viewer.steps.findIndex((one) => one.step === Number(this.wanted)) : -1;
    if (at >= 0) viewer.go(at);
    this.ready = true;
    this.compare();
  }

  compare() {
    const steps = this.viewers.get(this.place)?.steps ?? [];
    const first = steps[0]?.images[0];
    this.before.replaceChildren(...(first && steps.at(-1).finished ? [compareImages(first, steps.at(-1).best)] : []));
  }

  close() {
    this.viewers.forEach((one) => one.close());
  }
}

function compareImages(first, best) {
  const [a, b] = [h("img", { alt: `first image, reward ${number(first.reward)}` }), h("img", { class: "after", alt: `best image, reward ${number(best.reward)}` })];
  show(a, first.url);
  show(b, best.url);
  const box = h("div", { class: "picture" }, a, b);
  const slider = h("input", { type: "range", min: 0, max: 100, value: 50, oninput: () => box.style.setProperty("--cut", `${slider.value}%`) });
  return h("section", {}, h("h3", {}, "Before and after"), box, field(`First image (${number(first.reward)}) on the left, best (${number(best.reward)}) on the right`, slider));
}
