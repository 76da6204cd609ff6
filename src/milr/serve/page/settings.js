// Prompt and settings as a form, made from the server's schema.

import { get, post } from "./api.js";
import { button, field, h } from "./dom.js";

let schema = null;
export async function readSchema() {
  schema ??= await get("/v1/schema");
  return schema;
}

// A prompt's field, which says how the model reads what is typed.
export function makePrompt(value = "") {
  const input = h("input", { type: "text", required: true, value, maxlength: 4000, autocomplete: "off", spellcheck: "true" });
  const told = h("p", { class: "help", role: "status", "aria-live": "polite" });
  let timer = null;
  async function explain() {
    const typed = input.value;
    if (!typed.trim()) return told.replaceChildren();
    const read = await post("/v1/prompts", { prompt: typed }).catch(() => null);
    if (!read || typed !== input.value) return;
    const text = h("span", { class: read.error ? "bad" : "" }, (read.error ?? read.note ?? "").replace(/; type milr info --words.*$/, ""));
    const wrong = /cannot read '([^']+)'/.exec(read.error ?? "")?.[1];
    const names = [...(/did you mean ([^?]+)\?/.exec(read.error ?? "")?.[1] ?? "").matchAll(/'([^']+)'/g)].map((one) => one[1]);
    const fixes = wrong ? names.map((name) => button(`Use “${name}”`, () => ((input.value = typed.replace(wrong, name)), input.focus(), explain()))) : [];
    told.replaceChildren(text, " ", ...fixes);
    input.setAttribute("aria-invalid", Boolean(read.error));
  }
  input.addEventListener("input", () => (clearTimeout(timer), (timer = setTimeout(explain, 250))));
  if (value) explain();
  return { input, node: h("div", { class: "grow" }, field("Prompt", input), told) };
}

function makeInput(property, value) {
  const kinds = (property.anyOf ?? [property]).map((one) => one.type).filter((kind) => kind !== "null");
  const bounds = (property.anyOf ?? [property])[0];
  if (property.enum) return h("select", {}, h("option", { value: "" }, `default: ${value}`), property.enum.map((one) => h("option", { value: one }, one)));
  if (kinds.includes("integer") || kinds.includes("number")) {
    const step = kinds.includes("integer") && !kinds.includes("number") ? 1 : "any";
    return h("input", { type: "number", step, min: bounds.minimum ?? bounds.exclusiveMinimum, max: bounds.maximum, placeholder: value === null || value === undefined ? "none" : `default: ${value}` });
  }
  return h("input", { type: "text", placeholder: `default: ${value}` });
}

// A form of a method's settings; `read()` returns {method, settings}.
export async function makeSettings() {
  const { methods, presets, models } = await readSchema();
  const [model] = Object.keys(models);
  const preset = h("select", {}, presets.map((one, i) => h("option", { value: i }, one.name)));
  const method = h("select", {}, h("option", { value: "" }, "the model's best"), Object.entries(methods).map(([name, one]) => h("option", { value: name }, `${name}: ${one.summary}`)));
  const fields = h("div", { class: "fields" });
  let inputs = {};
  function fill(values = {}) {
    const name = method.value || models[model].best.method || "milr";
    const defaults = method.value ? models[model].defaults[name] : models[model].best_defaults;
    inputs = {};
    fields.replaceChildren(
      ...Object.entries(methods[name].schema.properties).map(([key, property]) => {
        inputs[key] = [makeInput(property, key === "seed" ? "drawn by the server" : (defaults[key] ?? property.default)), property];
        inputs[key][0].value = values[key] ?? "";
        return field(key.replaceAll("_", " "), inputs[key][0], property.description);
      }),
    );
  }
  method.addEventListener("change", () => fill());
  preset.addEventListener("change", () => {
    const chosen = presets[preset.value];
    method.value = chosen.method ?? "";
    fill(chosen.settings);
  });
  fill();
  function read() {
    const typed = Object.entries(inputs).filter(([, [input]]) => input.value !== "");
    return {
      method: method.value || null,
      settings: Object.fromEntries(typed.map(([key, [input]]) => [key, input.type === "number" ? Number(input.value) : input.value])),
    };
  }
  const node = h("details", {}, h("summary", {}, "Settings"), h("div", { class: "fields" }, field("Preset", preset), field("Method", method)), fields);
  return { node, read };
}
