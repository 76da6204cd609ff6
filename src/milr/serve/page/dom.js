// Small helpers to build the page; text is always set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

let numbers = 0;
export const unique = (word) => `${word}-${(numbers += 1)}`;

export function field(label, input, help) {
  const id = unique("field");
  input.id = id;
  const hint = help ? h("p", { class: "help", id: `${id}-help` }, help) : null;
  if (hint) input.setAttribute("aria-describedby", hint.id);
  return h("div", {}, h("label", { for: id }, label), input, hint);
}

export function say(text) {
  document.getElementById("status").textContent = text;
}

export const number = (value) => (value === null || value === undefined ? "unscored" : Number(value).toFixed(2));

export function count(many, noun) {
  const shown = Number(many.toFixed(1));
  return `${shown} ${noun}${shown === 1 ? "" : "s"}`;
}

export function button(text, onclick, more) {
  return h("button", { type: "button", onclick, ...more }, text);
}
