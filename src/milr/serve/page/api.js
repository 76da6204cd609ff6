// The server's API: requests with the key, event streams that are taken up again, images.

const KEY = "milr-key";
let key = sessionStorage.getItem(KEY) ?? "";

export function setKey(value) {
  key = value;
  sessionStorage.setItem(KEY, value);
}

const headers = (more) => ({ ...(key ? { Authorization: `Bearer ${key}` } : {}), ...more });

export class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered ${status}`);
    this.status = status;
  }
}

async function send(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers(options.headers) });
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new ApiError(response.status, body.error);
  }
  return response;
}

export const get = async (path) => (await send(path)).json();
export const remove = async (path) => (await send(path, { method: "DELETE" })).json();
export async function post(path, body) {
  const content = { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  return (await send(path, content)).json();
}

const wait = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

// Yields a search's events to its end, with the images that are being drawn; where the connection breaks, it goes on
// after the last one.
export async function* follow(search, signal) {
  let after = 0;
  for (let tries = 0; tries < 30; ) {
    try {
      const path = `/v1/searches/${encodeURIComponent(search)}/events?rows=true`;
      const response = await send(path, { signal, headers: { "Last-Event-ID": String(after) } });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) {
          const event = {};
          for (const line of part.split("\n")) {
            const at = line.indexOf(": ");
            if (at > 0) event[line.slice(0, at)] = line.slice(at + 2);
          }
          if (!event.data) continue;
          if (event.id) after = Number(event.id);
          tries = 0;
          yield { kind: event.event, data: JSON.parse(event.data) };
          if (event.event === "end") return;
        }
      }
    } catch (error) {
      if (signal?.aborted) return;
      if (error instanceof ApiError && error.status < 500 && error.status !== 429) throw error;
    }
    if (signal?.aborted) return;
    tries += 1;
    await wait(Math.min(5, tries));
  }
  throw new Error("the connection to the server is lost: load the page again");
}

const kept = new Map();

// Sets an image's source; with a key it is fetched, for an image element sends none.
export async function show(image, path) {
  if (!path || image.dataset.path === path) return;
  image.dataset.path = path;
  if (!key) {
    image.src = path;
    return;
  }
  if (!kept.has(path)) kept.set(path, send(path).then(async (response) => URL.createObjectURL(await response.blob())));
  try {
    const source = await kept.get(path);
    if (image.dataset.path === path) image.src = source;
  } catch {
    kept.delete(path);
  }
}

export async function download(path, name) {
  const blob = await (await send(path)).blob();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
