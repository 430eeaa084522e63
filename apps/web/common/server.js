// Talks to the server, and keeps every answer in this browser until the server has it.

const base = location.pathname.replace(/al\/grade\/?$/, "");
const OUTBOX = "active-learning.outbox";
const REFUSED = "active-learning.refused";
const TIMEOUT_MS = 30000;

/** The server cannot be reached, or is not able to answer now: worth another try. */
export class Unreachable extends Error {}

/** The server understood and said no. */
export class Refused extends Error {}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(base + path, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch (error) {
    throw new Unreachable(error.message);
  }
  if (response.ok) return response;
  if (response.status === 401) return signIn();
  const body = await response.json().catch(() => ({}));
  const detail = typeof body.detail === "string" ? body.detail : JSON.stringify(body.detail ?? response.statusText);
  if (response.status >= 500 || response.status === 408 || response.status === 429) throw new Unreachable(detail);
  throw new Refused(detail);
}

const json = async (path, options) => (await request(path, options)).json();
const post = (path, body) =>
  json(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export const session = () => json("al/session");
export const progress = (reader) => json(`al/progress?client_id=${encodeURIComponent(reader)}`);
export const next = (strategy, reader) =>
  post(`activelearning/${encodeURIComponent(strategy)}`, { client_id: reader });
/** Take back a reader's last answer; sent again with the same id, nothing more is taken back. */
export const undo = (reader, id) => post("al/undo", { client_id: reader, undo_id: id });

export async function pixels(image) {
  const response = await request(`al/pixels?image=${encodeURIComponent(image)}`);
  const header = JSON.parse(response.headers.get("X-Image"));
  const buffer = await response.arrayBuffer();
  return { ...header, values: header.bits === 8 ? new Uint8Array(buffer) : new Uint16Array(buffer) };
}

export async function opinion(model, image) {
  const form = new FormData();
  form.set("params", "{}");
  const path = `infer/${encodeURIComponent(model)}?image=${encodeURIComponent(image)}&output=json`;
  return (await json(path, { method: "POST", body: form })).probabilities;
}

/** Leave for the page to sign in; it comes back here, and what is kept is sent then. */
function signIn() {
  location.assign(`${base}al/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
  return new Promise(() => {}); // nothing goes on here
}

export async function signOut() {
  await request("al/sign-out", { method: "POST" });
  return signIn();
}

// Answers

const read = (key) => JSON.parse(localStorage.getItem(key) ?? "[]");
const write = (key, list) => localStorage.setItem(key, JSON.stringify(list));

export const waiting = () => read(OUTBOX);

/** Keep an answer; `flush` sends it. */
export function keep(answer) {
  write(OUTBOX, [...read(OUTBOX), { ...answer, id: answer.id ?? identifier() }]);
}

/** Take back the newest answer of a reader that was not sent yet; undefined if there is none. */
export function takeBack(reader) {
  const list = read(OUTBOX);
  const index = list.findLastIndex((answer) => answer.reader === reader);
  if (index < 0) return undefined;
  const [answer] = list.splice(index, 1);
  write(OUTBOX, list);
  return answer;
}

/** Send all kept answers, the oldest first; returns those that the server refused, with its reason. */
export async function flush() {
  const refused = [];
  for (const answer of read(OUTBOX)) {
    try {
      await send(answer);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      refused.push({ ...answer, error: error.message });
      write(REFUSED, [...read(REFUSED), { ...answer, error: error.message }]);
    }
    write(OUTBOX, read(OUTBOX).filter((other) => other.id !== answer.id));
  }
  return refused;
}

async function send(answer) {
  if (answer.kind === "skip") {
    await post("al/skip", { image: answer.image, reason: answer.reason, client_id: answer.reader });
    return;
  }
  const form = new FormData();
  const params = {
    label: answer.label,
    client_id: answer.reader,
    answer_id: answer.id,
    probabilities_shown: answer.probabilitiesShown,
  };
  form.set("params", JSON.stringify(params));
  form.set("label", new Blob([]), "label.json");
  await request(`datastore/label?image=${encodeURIComponent(answer.image)}`, { method: "PUT", body: form });
}

// crypto.randomUUID needs HTTPS or localhost; a tablet on the ward may have neither.
export function identifier() {
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(16).padStart(8, "0")).join("");
}
