// In the place of api.js in a file of its own: the images are in the file.

const files = new Map();

export function keep(images) {
  for (const [path, url] of Object.entries(images)) files.set(path, url);
}

export async function show(image, path) {
  image.dataset.path = path;
  if (files.has(path)) image.src = files.get(path);
}

export async function download(path, name) {
  const link = document.createElement("a");
  link.href = files.get(path);
  link.download = name.replace(/\.\w+$/, `.${/^data:image\/(\w+)/.exec(link.href)?.[1] ?? "png"}`);
  link.click();
}
