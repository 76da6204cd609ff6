// A run in a file of its own: what the server's page shows of a run, from the file's own data.

import { keep } from "./offline.js";
import { RunView } from "./runview.js";

const run = JSON.parse(document.getElementById("run").textContent);
const [place, step] = location.hash.replace(/^#/, "").split("/");
keep(run.files);
const view = new RunView({ ...run.about, stem: "", place: place || run.first, step: step ?? "", onmove: (to) => history.replaceState(null, "", `#${to}`) });
document.getElementById("content").replaceChildren(view.node);
for (const data of run.steps) view.take("step", data);
view.end();
