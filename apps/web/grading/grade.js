// The grading page: one image, one key, the next image.

import * as server from "./server.js";
import { Viewer } from "./viewer.js";

const RETRY_MS = 3000;
const LOOK_AGAIN_MS = 15000;
const REASONS = ["The image quality is too poor", "Not an image of this task", "I am not sure", "It shows more than one class"];
const READER = "active-learning.reader";
const STRATEGY = "active-learning.strategy";

const at = (id) => document.getElementById(id);
const viewer = new Viewer(at("image"), showValues);
const state = { session: null, reader: "", strategy: "", sample: null, shown: false, busy: true, model: "" };
let retry = 0;

// Which image, and what to do with it

async function start() {
  state.session = await persistent(server.session);
  at("title").textContent = state.session.name;
  state.reader = state.session.user || localStorage.getItem(READER) || "";
  fillStrategies();
  fillClasses();
  if (!state.reader) await askName();
  at("reader").textContent = state.reader;
  await work();
}

/** Send what is kept, then show the next image; goes on until there is one. */
async function work() {
  clearTimeout(retry);
  setBusy(true);
  try {
    await deliver();
    const sample = await persistent(() => server.next(state.strategy, state.reader));
    await show(sample.id ? sample : null);
  } catch (error) {
    notice(`The server says: ${error.message}`);
  }
  refreshProgress();
}

async function show(sample) {
  state.sample = sample;
  state.shown = false;
  at("probabilities").hidden = true;
  at("ask").setAttribute("aria-pressed", "false");
  at("image").dataset.id = sample?.id ?? "";
  delete at("image").dataset.ready;
  at("why").textContent = sample ? why(sample) : "";
  at("empty").hidden = true;
  viewer.show(null);
  if (!sample) {
    empty("Nothing left to grade for now. This page looks again by itself.");
    retry = setTimeout(work, LOOK_AGAIN_MS);
    setBusy(false);
    return;
  }
  try {
    viewer.show(await persistent(() => server.pixels(sample.id)));
  } catch (error) {
    empty(`This image cannot be shown: ${error.message}. Skip it with a reason.`);
  }
  at("channel").hidden = viewer.pixels?.channels !== 3;
  at("image").dataset.ready = sample.id;
  setBusy(false);
  at("stage").focus();
}

async function answer(fields) {
  if (state.busy || !state.sample) return;
  setBusy(true);
  server.keep({ image: state.sample.id, sample: state.sample, reader: state.reader, probabilitiesShown: state.shown, ...fields });
  await work();
}

async function undo() {
  if (state.busy) return;
  setBusy(true);
  const kept = server.takeBack(state.reader);
  const id = server.identifier();
  try {
    const sample = kept ? kept.sample : await persistent(() => server.undo(state.reader, id));
    notice(`Undone: ${sample.id} is yours again.`);
    await show(sample);
  } catch (error) {
    notice(error.message);
    setBusy(false);
  }
  refreshProgress();
}

async function toggleOpinion() {
  const panel = at("probabilities");
  if (!panel.hidden || !state.sample) {
    panel.hidden = true;
    at("ask").setAttribute("aria-pressed", "false");
    return;
  }
  if (!state.model) await refreshProgress();
  if (!state.model) {
    notice("There is no trained model yet.");
    return;
  }
  const image = state.sample.id;
  try {
    const probabilities = await server.opinion(state.model, image);
    if (state.sample?.id !== image) return;
    panel.replaceChildren(...Object.entries(probabilities).flatMap(([name, share]) => {
      const meter = document.createElement("meter");
      meter.value = share;
      return [line(`${name}: ${(100 * share).toFixed(0)} %`), meter];
    }));
    panel.hidden = false;
    state.shown = true;
    at("ask").setAttribute("aria-pressed", "true");
  } catch (error) {
    notice(`No opinion: ${error.message}`);
  }
}

// The server may be away for a while

async function persistent(action) {
  for (;;) {
    try {
      const result = await action();
      connected();
      return result;
    } catch (error) {
      if (error instanceof server.Unreachable) await away();
      else throw error;
    }
  }
}

async function deliver() {
  for (const answer of await persistent(server.flush)) {
    notice(`${answer.image} was not accepted: ${answer.error}. Your answer is kept in this browser.`);
  }
}

async function away() {
  const count = server.waiting().length;
  const kept = count ? ` ${count} ${count === 1 ? "answer is" : "answers are"} kept here and sent as soon as it is back.` : "";
  notice(`The server cannot be reached; trying again.${kept}`, "away");
  await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
}

function connected() {
  if (at("notice").dataset.kind === "away") notice("");
}

// What is written on the page

function why(sample) {
  if (!sample.rank) return "your last answer, taken back";
  const place = `image ${sample.rank} of ${sample.round_size}, round ${sample.round}`;
  if (sample.reason !== "scored") return `${place} · no scores yet, random order`;
  const score = sample.score === null ? "" : ` · score ${sample.score.toPrecision(3)}`;
  return `${place} · ${sample.strategy}${score}`;
}

async function refreshProgress() {
  try {
    const now = await server.progress(state.reader);
    state.model = now.model;
    const left = now.total - now.labelled - now.skipped - now.unreadable;
    const parts = [`${now.labelled} of ${now.total} graded`, `${now.mine} by you`, `${left} left`];
    if (state.sample?.round) parts.push(`round ${state.sample.round}: ${state.sample.remaining} of ${state.sample.round_size} left`);
    if (now.skipped) parts.push(`${now.skipped} skipped`);
    if (now.unreadable) parts.push(`${now.unreadable} unreadable`);
    if (now.job) parts.push(now.job === "train" ? "training …" : "scoring …");
    at("progress").textContent = parts.join(" · ");
  } catch {
    // The next answer tells whether the server is there.
  }
}

function notice(text, kind = "") {
  at("notice").textContent = text;
  at("notice").dataset.kind = kind;
  at("notice").hidden = !text;
}

function empty(text) {
  at("empty").textContent = text;
  at("empty").hidden = false;
}

function line(text) {
  const element = document.createElement("div");
  element.textContent = text;
  return element;
}

function showValues() {
  at("values").textContent = viewer.values();
  if (viewer.pixels) {
    at("window").value = 500 * viewer.window;
    at("level").value = 500 * (viewer.level + 0.5);
    at("channel").textContent = viewer.channel < 0 ? "all channels" : `channel ${viewer.channel + 1}`;
  }
}

function setBusy(busy) {
  state.busy = busy;
  for (const button of document.querySelectorAll("#classes button, #skip, #ask")) button.disabled = busy || !state.sample;
  at("undo").disabled = busy;
  at("stage").setAttribute("aria-busy", String(busy));
}

function button(number, text, action) {
  const element = document.createElement("button");
  if (number <= 9) {
    const key = document.createElement("kbd");
    key.textContent = number;
    element.append(key, " ");
  }
  element.append(text);
  element.type = "button";
  element.addEventListener("click", action);
  return element;
}

function fillClasses() {
  at("classes").replaceChildren(
    ...state.session.classes.map((name, index) => button(index + 1, name, () => answer({ kind: "label", label: name }))),
  );
}

function fillStrategies() {
  const names = state.session.strategies.map((strategy) => strategy.name);
  const kept = localStorage.getItem(STRATEGY);
  state.strategy = names.includes(kept) ? kept : names[0];
  at("strategy").replaceChildren(...state.session.strategies.map((strategy) => {
    const option = new Option(strategy.name, strategy.name, false, strategy.name === state.strategy);
    option.title = strategy.description;
    return option;
  }));
}

// Dialogs

function dialog(element) {
  element.returnValue = "";
  element.showModal();
  return new Promise((resolve) => element.addEventListener("close", () => resolve(element.returnValue), { once: true }));
}

async function askName() {
  at("name").value = state.reader;
  do {
    await dialog(at("name-dialog"));
  } while (!at("name").value.trim() && !state.reader);
  state.reader = at("name").value.trim() || state.reader;
  localStorage.setItem(READER, state.reader);
  at("reader").textContent = state.reader;
}

/** Another reader; who is signed in signs out. */
async function changeReader() {
  if (state.session.user) return server.signOut();
  const before = state.reader;
  await askName();
  if (state.reader !== before) await work();
}

async function skip() {
  if (state.busy || !state.sample) return;
  const element = at("skip-dialog");
  at("other").value = "";
  at("reasons").replaceChildren(...REASONS.map((reason, index) => button(index + 1, reason, () => element.close(reason))));
  const chosen = await dialog(element);
  const reason = chosen === "ok" ? at("other").value.trim() : chosen;
  if (reason) await answer({ kind: "skip", reason });
}

// Keys

const KEYS = {
  s: skip,
  u: undo,
  p: toggleOpinion,
  n: changeReader,
  c: () => viewer.nextChannel(),
  r: () => viewer.reset(),
  "?": () => dialog(at("help-dialog")),
  "+": () => viewer.zoom(1.25),
  "=": () => viewer.zoom(1.25),
  "-": () => viewer.zoom(0.8),
  "[": () => viewer.setWindow(viewer.window * 0.9, viewer.level),
  "]": () => viewer.setWindow(viewer.window / 0.9, viewer.level),
  ",": () => viewer.setWindow(viewer.window, viewer.level - 0.03),
  ".": () => viewer.setWindow(viewer.window, viewer.level + 0.03),
  ArrowLeft: () => viewer.pan(40, 0),
  ArrowRight: () => viewer.pan(-40, 0),
  ArrowUp: () => viewer.pan(0, 40),
  ArrowDown: () => viewer.pan(0, -40),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat && /^[0-9su]$/.test(event.key)) return;
  const open = document.querySelector("dialog[open]");
  if (open) {
    const reason = open.id === "skip-dialog" && event.target !== at("other") && REASONS[Number(event.key) - 1];
    if (reason) {
      event.preventDefault();
      open.close(reason);
    }
    return;
  }
  if (event.target.matches("select, input") && !/^[a-z0-9?]$/.test(event.key)) return;
  const name = /^[1-9]$/.test(event.key) && state.session?.classes[Number(event.key) - 1];
  if (name) answer({ kind: "label", label: name });
  else if (KEYS[event.key]) KEYS[event.key]();
  else return;
  event.preventDefault();
});

at("skip").addEventListener("click", skip);
at("undo").addEventListener("click", undo);
at("ask").addEventListener("click", toggleOpinion);
at("help").addEventListener("click", KEYS["?"]);
at("reader").addEventListener("click", changeReader);
at("reset").addEventListener("click", KEYS.r);
at("channel").addEventListener("click", KEYS.c);
at("zoom-in").addEventListener("click", KEYS["+"]);
at("zoom-out").addEventListener("click", KEYS["-"]);
at("skip-cancel").addEventListener("click", () => at("skip-dialog").close(""));
at("window").addEventListener("input", (event) => viewer.setWindow(event.target.value / 500, viewer.level));
at("level").addEventListener("input", (event) => viewer.setWindow(viewer.window, event.target.value / 500 - 0.5));
at("strategy").addEventListener("change", async (event) => {
  state.strategy = event.target.value;
  localStorage.setItem(STRATEGY, state.strategy);
  await work();
});

start().catch((error) => notice(`The page cannot start: ${error.message}`));
