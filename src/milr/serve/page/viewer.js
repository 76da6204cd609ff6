// One image's search: the newest and the best image, a filmstrip, one slider for everything.

import { download, show } from "./api.js";
import { drawChart } from "./chart.js";
import { button, count, h, number, s, unique } from "./dom.js";

// Returns the words of `now`, each with whether it is not in `before` at its place in the order.
export function compareWords(before, now) {
  const a = before.split(/\s+/).filter(Boolean), b = now.split(/\s+/).filter(Boolean);
  const table = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    }
  }
  const words = [];
  for (let i = 0, j = 0; j < b.length; ) {
    if (i < a.length && a[i] === b[j]) words.push([b[(i += 1, j++)], false]);
    else if (i < a.length && table[i + 1][j] > table[i][j + 1]) i += 1;
    else words.push([b[j++], true]);
  }
  return words;
}

// Returns how far the latents of each word have moved, in the order of the words; a word is as warm as its warmest token.
export function heatWords(shifts) {
  const words = [];
  let open = false;
  for (const [signs, shift] of shifts ?? []) {
    for (const part of signs.split(/(\s+)/)) {
      if (!part.trim()) open = open && part === "";
      else if (open) words[words.length - 1] = Math.max(words.at(-1), shift);
      else {
        words.push(shift);
        open = true;
      }
    }
  }
  return words;
}

function drawText(first, step, hottest) {
  const words = compareWords(first, step.text);
  if (!words.length) return ["(no text)"];
  const heat = heatWords(step.trace?.text_shifts);
  return words.flatMap(([word, changed], i) => {
    const node = h(changed ? "mark" : "span", { class: "word" }, word);
    if (heat[i] !== undefined && hottest > 0) {
      node.style.setProperty("--heat", `${Math.round((100 * heat[i]) / hottest)}%`);
      node.title = `latent moved by ${(100 * heat[i]).toFixed(1)} %${changed ? "; the word has changed" : ""}`;
    }
    return [node, " "];
  });
}

function drawBoxes(size, boxes) {
  return s(
    "svg",
    { viewBox: `0 0 ${size} ${size}`, "aria-hidden": "true", class: "box" },
    boxes.map(({ name, box: [x0, y0, x1, y1], color }) => [
      s("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, "vector-effect": "non-scaling-stroke" }),
      s("text", { x: x0 + 1, y: Math.max(y0 - 1, size / 25), "font-size": size / 26, "stroke-width": size / 110 }, `${color ?? ""} ${name}`.trim()),
    ]),
  );
}

function makePicture(caption) {
  const image = h("img", { alt: "" });
  const overlay = h("div", {});
  const title = h("figcaption", {}, caption);
  const facts = h("p", { class: "faint" });
  const node = h("figure", {}, title, h("div", { class: "picture" }, image, overlay), facts);
  return { node, image, overlay, title, facts };
}

export class Viewer {
  // `stem`: the address of the search, whose strip and GIF can be downloaded; "" if there are none. `onstep` is called
  // with the step that is shown.
  constructor({ stem, place, prompt, onstep = () => {} }) {
    this.prompt = prompt;
    this.onstep = onstep;
    this.steps = [];
    this.at = -1;
    this.newest = makePicture("Step");
    this.best = makePicture("Best so far");
    this.slider = h("input", { type: "range", min: 0, max: 0, value: 0, disabled: true, oninput: () => this.go(Number(this.slider.value)) });
    this.play = button("Play", () => this.toggle());
    this.boxes = h("input", { type: "checkbox", checked: true, id: unique("boxes"), onchange: () => this.draw() });
    this.film = h("div", { class: "film", role: "group", "aria-label": "Steps" });
    this.text = h("p", { class: "text" });
    this.warmth = h("p", { class: "faint" });
    this.verdict = h("div", {});
    this.curves = h("div", {});
    this.facts = h("p", { class: "faint" });
    this.slider.id = unique("slider");
    const where = place.join("/");
    this.downloads = h(
      "div",
      { class: "row" },
      button("Download image", () => download(this.now.best.url, "milr.png")),
      stem && button("Download strip", () => download(`${stem}/strip/${where}`, "milr-strip.png")),
      stem && button("Download GIF", () => download(`${stem}/gif/${where}`, "milr.gif")),
    );
    this.downloads.hidden = true;
    this.node = h(
      "section",
      { "aria-label": prompt, onkeydown: (event) => this.key(event) },
      h("div", { class: "columns" }, this.newest.node, this.best.node, h("div", {}, h("h3", {}, "Verdict"), this.verdict, h("h3", {}, "Text"), this.text, this.warmth, this.facts)),
      h("div", { class: "row" }, h("div", { class: "grow" }, h("label", { for: this.slider.id }, "Step"), this.slider), this.play, h("div", {}, h("label", { for: this.boxes.id }, this.boxes, " Boxes"))),
      this.film,
      this.curves,
      this.downloads,
    );
  }

  // Arrow keys, Home and End move through the steps from anywhere in the viewer; the slider has its own.
  key(event) {
    const to = { ArrowLeft: this.at - 1, ArrowRight: this.at + 1, Home: 0, End: this.steps.length - 1 }[event.key];
    if (to === undefined || event.target.matches("input, select") || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.go(to);
    if (this.film.contains(event.target)) this.film.children[this.at]?.focus();
  }

  // Shows the image that is being drawn, row by row, to those who look at the newest one.
  grow({ url, drawn }) {
    if (this.at !== this.steps.length - 1) return;
    const { image, overlay, title, facts } = this.newest;
    image.dataset.path = "";
    image.src = url;
    image.alt = `image for: ${this.prompt}, ${Math.round(100 * drawn)} % drawn`;
    overlay.replaceChildren();
    title.textContent = `Step ${this.steps.length} is drawn: ${Math.round(100 * drawn)} %`;
    facts.textContent = "row by row";
  }

  get now() {
    return this.steps[this.at];
  }

  add(step) {
    const last = this.at === this.steps.length - 1;
    this.steps.push(step);
    this.slider.max = this.steps.length - 1;
    this.slider.disabled = false;
    const place = this.steps.length - 1;
    const image = h("img", { alt: "" });
    const picture = step.images[0] ?? step.best;
    show(image, picture.url);
    this.film.append(button("", () => this.go(place)));
    this.film.lastChild.append(image, `step ${step.step}: ${number(picture.reward)}`);
    this.downloads.hidden = !step.finished;
    if (last) this.go(place);
    else this.draw();
  }

  go(place) {
    this.at = Math.max(0, Math.min(this.steps.length - 1, place));
    this.slider.value = this.at;
    this.draw();
    this.film.children[this.at]?.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (this.now) this.onstep(this.now.step);
  }

  toggle() {
    if (this.timer) {
      clearInterval(this.timer);
      this.timer = null;
    } else {
      if (this.at >= this.steps.length - 1) this.go(0);
      this.timer = setInterval(() => (this.at >= this.steps.length - 1 ? this.toggle() : this.go(this.at + 1)), 600);
    }
    this.play.textContent = this.timer ? "Pause" : "Play";
  }

  close() {
    clearInterval(this.timer);
  }

  draw() {
    const step = this.now;
    if (!step) return;
    const picture = step.images[0] ?? step.best;
    this.slider.setAttribute("aria-valuetext", `step ${step.step}, reward ${number(picture.reward)}, best ${number(step.best.reward)}`);
    this.drawPicture(this.newest, picture, `Step ${step.step}`, "image");
    this.drawPicture(this.best, step.best, `Best so far: step ${step.best.step}`, "best image");
    if (this.tied(step)) this.best.facts.textContent += "; of equal rewards, the one whose conditions are closest to met";
    [...this.film.children].forEach((one, i) => {
      one.setAttribute("aria-pressed", i === this.at);
      one.classList.toggle("best", this.steps[i].step === step.best.step);
    });
    const hottest = Math.max(0, ...this.steps.flatMap((one) => heatWords(one.trace?.text_shifts)));
    this.text.replaceChildren(...drawText(this.steps[0].text, step, hottest));
    this.warmth.textContent = hottest > 0 ? `Underlined: changed since step 0. Colour: how far the word's latent has moved, up to ${(100 * hottest).toFixed(1)} %.` : "Underlined: changed since step 0.";
    const checks = Object.entries(picture.conditions).map(([name, value]) =>
      h("li", { class: value >= 0.999 ? "met" : "bad" }, `${value >= 0.999 ? "✓ met" : "✗ failed"}: ${name}`),
    );
    this.verdict.replaceChildren(h("p", {}, `Reward ${number(picture.reward)}${picture.explanation ? `: ${picture.explanation}` : ""}`), h("ul", { class: "checks" }, checks));
    const trace = step.trace;
    const moved = trace && trace.text_shift !== null ? `; text latents moved by ${(100 * trace.text_shift).toFixed(1)} %, image latents by ${(100 * trace.image_shift).toFixed(1)} %` : "";
    this.facts.textContent = `${count(step.drawings, "image")}, ${step.seconds.toFixed(1)} s${moved}${step.finished ? `; ended: ${step.finished}` : ""}`;
    this.curves.replaceChildren(drawChart({ title: "Rewards by step", xLabel: "steps", now: step.step, lines: linesOf(this.steps, (one) => one.step, true) }));
  }

  // True if an earlier image has the reward of the best one: then the mean of the parts chose.
  tied(step) {
    return this.steps.some((one) => one.step < step.best.step && one.images.some((image) => image.reward === step.best.reward));
  }

  drawPicture(figure, picture, caption, kind) {
    show(figure.image, picture.url);
    figure.image.alt = `${kind} for: ${this.prompt}; reward ${number(picture.reward)}`;
    figure.title.textContent = caption;
    figure.facts.textContent = `reward ${number(picture.reward)}`;
    const size = figure.image.naturalWidth;
    figure.overlay.replaceChildren(...(size && this.boxes.checked && picture.boxes.length ? [drawBoxes(size, picture.boxes)] : []));
    if (!size) figure.image.addEventListener("load", () => this.draw(), { once: true });
  }
}

// Curves of a search: the reward of each step, the best so far, the held-out evaluators in grey, the latents' shift.
export function linesOf(steps, x, shifts) {
  const panels = [...new Set(steps.flatMap((step) => Object.keys(step.panel)))];
  const lines = [
    { name: "reward", kind: "reward", points: steps.filter((one) => one.images.length).map((one) => [x(one), one.images[0].reward]) },
    { name: "best so far", kind: "best", points: steps.map((one) => [x(one), one.best.reward]) },
    ...panels.map((name) => ({ name: `${name} (only watches)`, kind: "watched", points: steps.map((one) => [x(one), one.panel[name]?.best]) })),
  ];
  if (shifts && steps.some((one) => one.trace && one.trace.text_shift !== null)) {
    const most = Math.max(1e-9, ...steps.map((one) => (one.trace ? Math.max(one.trace.text_shift, one.trace.image_shift) : 0)));
    lines.push({ name: `latent shift, of ${(100 * most).toFixed(1)} %`, kind: "shift", points: steps.map((one) => [x(one), one.trace ? Math.max(one.trace.text_shift, one.trace.image_shift) / most : null]) });
  }
  return lines;
}
