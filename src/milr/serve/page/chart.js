// Curves over steps, images or seconds.

import { h, s, number } from "./dom.js";

const WIDTH = 480, HEIGHT = 190, LEFT = 34, BOTTOM = 24, TOP = 8;

// lines: [{name, kind, points: [[x, y or null], ...]}]; y from 0 to 1. `now`: an x that is marked; `end`: the least end of x.
export function drawChart({ lines, xLabel, now, title, end = 1 }) {
  const drawn = lines.map((line) => ({ ...line, points: line.points.filter(([, y]) => y !== null && y !== undefined) }));
  const most = Math.max(end, ...drawn.flatMap((line) => line.points.map(([x]) => x)));
  const at = (x) => LEFT + ((WIDTH - LEFT - 10) * x) / most;
  const up = (y) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - y);
  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${at(x).toFixed(1)} ${up(y).toFixed(1)}`).join("");
  const said = drawn.filter((line) => line.points.length).map((line) => `${line.name} ${number(line.points.at(-1)[1])}`);
  const svg = s(
    "svg",
    { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: last ${said.join(", ")}` },
    [0, 0.5, 1].map((y) => [
      s("line", { class: "axis", x1: LEFT, x2: WIDTH - 10, y1: up(y), y2: up(y) }),
      s("text", { x: 6, y: up(y) + 4 }, y.toFixed(1)),
    ]),
    s("text", { x: LEFT, y: HEIGHT - 6 }, "0"),
    s("text", { x: WIDTH - 10, y: HEIGHT - 6, "text-anchor": "end" }, `${Number(most.toFixed(1))} ${xLabel}`),
    drawn.map((line) => s("path", { class: line.kind, d: path(line.points) })),
    drawn.map((line) => line.points.map(([x, y]) => s("circle", { class: line.kind, cx: at(x), cy: up(y), r: 2, fill: "currentColor" }))),
    now === undefined ? null : s("line", { class: "now", x1: at(now), x2: at(now), y1: TOP, y2: HEIGHT - BOTTOM }),
  );
  const keys = drawn.filter((line) => line.points.length).map((line) => h("span", {}, h("span", { class: `key ${line.kind}` }), `${line.name} `));
  return h("div", {}, svg, h("p", { class: "faint" }, keys));
}
