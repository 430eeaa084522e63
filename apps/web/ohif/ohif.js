// What MONAI Label's viewer lacks for active learning: why this image, skip, draw, submit. No dependencies.
//
// OHIF calls the function in app-config.js with its services; everything here works through them and through the
// global `cornerstone` and `cornerstoneTools`. The panel is plain DOM above MONAI Label's own.

const SEGMENTATION = '1'; // the id that MONAI Label's panel gives its segmentation
const GROUPS = ['mpr', 'default'];
const BRUSH = 'CircularBrush';
const ERASER = 'CircularEraser';
const UNDO_STEPS = 30;
const QUIET_MS = 200; // after the last change of the voxels a stroke is over
const POLL_MS = 5000;
const SIGN_IN = '/al/sign-in?next=/ohif/';
const REASONS = ['Poor image quality', 'Wrong series', 'I am not sure'];

const root = document.createElement('section');
const store = {
  get reader() { return localStorage.getItem('al.reader') || ''; },
  set reader(name) { localStorage.setItem('al.reader', name); },
  get strategy() { return localStorage.getItem('al.strategy') || ''; },
  set strategy(name) { localStorage.setItem('al.strategy', name); },
  get sample() { return JSON.parse(sessionStorage.getItem('al.sample') || 'null'); },
  set sample(sample) { sessionStorage.setItem('al.sample', JSON.stringify(sample)); },
};
const state = { services: null, session: null, progress: {}, model: null, edited: false, busy: false };
const history = { known: null, steps: [] };

// Server

class SignedOut extends Error {
  constructor() {
    super('You are no longer signed in. What you drew is still here: sign in in another tab, then try again.');
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error('The server cannot be reached. What you drew is still here.');
  }
  if (response.status === 401) throw new SignedOut();
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(typeof body.detail === 'string' ? body.detail : `The server answered ${response.status}.`);
  return body;
}

const post = (path, body) =>
  ask(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });

const client = () => (store.reader ? { client_id: store.reader } : {});

// Panel

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const view = {
  reader: element('input', { id: 'al-reader', type: 'text', maxLength: 200, placeholder: 'Your name', autocomplete: 'off' }),
  signOut: element('button', { id: 'al-sign-out', type: 'button', textContent: 'Sign out', hidden: true }),
  strategy: element('select', { id: 'al-strategy', title: 'How the next image is chosen' }),
  next: element('button', { id: 'al-next', type: 'button', textContent: 'Next image' }),
  why: element('p', { id: 'al-why' }),
  skipReason: element('input', { id: 'al-skip-reason', type: 'text', maxLength: 1000, placeholder: 'Why skip it?' }),
  skip: element('button', { id: 'al-skip', type: 'button', textContent: 'Skip' }),
  segments: element('div', { id: 'al-segments', role: 'radiogroup', ariaLabel: 'Label to draw' }),
  brush: element('button', { id: 'al-brush', type: 'button', textContent: 'Brush' }),
  eraser: element('button', { id: 'al-eraser', type: 'button', textContent: 'Eraser' }),
  look: element('button', { id: 'al-look', type: 'button', textContent: 'Look' }),
  undo: element('button', { id: 'al-undo', type: 'button', textContent: 'Undo', disabled: true }),
  size: element('input', { id: 'al-size', type: 'range', min: 1, max: 40, value: 8, title: 'Brush size in mm' }),
  submit: element('button', { id: 'al-submit', type: 'button', textContent: 'Submit label', className: 'al-main' }),
  notice: element('p', { id: 'al-notice', role: 'status' }),
  progress: element('p', { id: 'al-progress' }),
};

function build() {
  root.id = 'active-learning';
  const reasons = element('datalist', { id: 'al-reasons' }, ...REASONS.map(value => element('option', { value })));
  view.skipReason.setAttribute('list', 'al-reasons');
  const row = (...nodes) => element('div', { className: 'al-row' }, ...nodes);
  root.append(
    element('h2', { textContent: 'Annotate' }),
    row(view.reader, view.signOut),
    row(view.strategy, view.next),
    view.why,
    row(view.skipReason, view.skip, reasons),
    view.segments,
    row(view.look, view.brush, view.eraser, view.undo),
    row(element('label', { htmlFor: 'al-size', textContent: 'Size' }), view.size),
    row(view.submit),
    view.notice,
    view.progress
  );
  // OHIF has single-key shortcuts; while somebody types they must not reach it.
  for (const type of ['keydown', 'keyup', 'keypress']) root.addEventListener(type, event => event.stopPropagation());
  view.reader.value = store.reader;
  view.reader.onchange = () => { store.reader = view.reader.value.trim(); refresh(); };
  view.signOut.onclick = () => working(signOut);
  view.strategy.onchange = () => { store.strategy = view.strategy.value; };
  view.next.onclick = () => working(nextImage);
  view.skip.onclick = () => working(skip);
  view.submit.onclick = () => working(submit);
  view.brush.onclick = () => use(BRUSH);
  view.eraser.onclick = () => use(ERASER);
  view.look.onclick = () => use('WindowLevel');
  view.undo.onclick = undo;
  view.size.oninput = resize;
}

function say(words, kind = 'info', ...more) {
  view.notice.replaceChildren(words, ...more);
  view.notice.dataset.kind = kind;
}

function complain(error) {
  const link = () => element('a', { href: SIGN_IN, target: '_blank', textContent: ' Sign in' });
  say(error.message, 'error', ...(error instanceof SignedOut ? [link()] : []));
}

async function working(action) {
  if (state.busy) return;
  state.busy = true;
  for (const button of [view.next, view.skip, view.submit]) button.disabled = true;
  try {
    await action();
  } catch (error) {
    complain(error);
  } finally {
    state.busy = false;
    for (const button of [view.next, view.skip, view.submit]) button.disabled = false;
  }
}

// The image on the screen

function displaySet() {
  const { viewportGridService, displaySetService } = state.services;
  const { viewports, activeViewportId } = viewportGridService.getState();
  const uid = viewports.get(activeViewportId)?.displaySetInstanceUIDs?.[0];
  return uid ? displaySetService.getDisplaySetByUID(uid) : null;
}

function labelmap() {
  try {
    return state.services.segmentationService.getLabelmapVolume(SEGMENTATION) || null;
  } catch {
    return null; // there is none yet
  }
}

const voxels = () => labelmap()?.voxelManager.getCompleteScalarDataArray() ?? null;

function segments() {
  const found = state.services.segmentationService.getSegmentation?.(SEGMENTATION);
  return Object.values(found?.segments ?? {}).filter(Boolean);
}

function showWhy() {
  const sample = store.sample;
  const shown = displaySet()?.SeriesInstanceUID;
  if (!sample || (shown && sample.id !== shown)) {
    view.why.textContent = sample ? 'This image was opened by hand.' : 'Press “Next image” to begin.';
    return;
  }
  const place = `rank ${sample.rank} of ${sample.round_size} in round ${sample.round}`;
  const score = sample.score === null ? '' : `, score ${Number(sample.score).toPrecision(3)}`;
  const reason = sample.reason === 'scored'
    ? `chosen by model ${String(sample.model_version).slice(0, 8)}`
    : 'no trained model yet: a random start';
  view.why.textContent = `${sample.strategy}${score}: ${place}; ${reason}.`;
}

// What a reader does

const mayLeave = () => !state.edited || window.confirm('What you drew is not submitted. Leave it?');

async function nextImage() {
  if (!mayLeave()) return;
  const sample = await post(`/activelearning/${encodeURIComponent(view.strategy.value)}`, client());
  if (!sample.id) {
    say('No image is left: all are labelled, skipped, or with other readers.');
    return;
  }
  store.sample = sample;
  state.edited = false;
  const address = new URL(location.href);
  address.search = '';
  address.searchParams.set('StudyInstanceUIDs', sample.StudyInstanceUID);
  address.searchParams.set('initialSeriesInstanceUID', sample.SeriesInstanceUID);
  location.assign(address);
}

async function signOut() {
  if (!mayLeave()) return;
  await ask('/al/sign-out', { method: 'POST' });
  state.edited = false;
  location.assign(SIGN_IN);
}

async function skip() {
  const image = displaySet()?.SeriesInstanceUID;
  const reason = view.skipReason.value.trim();
  if (!image) throw new Error('There is no image to skip.');
  if (!reason) {
    view.skipReason.focus();
    throw new Error('Say why: somebody will look at it again.');
  }
  await post('/al/skip', { image, reason, ...client() });
  view.skipReason.value = '';
  state.edited = false;
  await nextImage();
}

async function submit() {
  const volume = labelmap();
  const image = displaySet()?.SeriesInstanceUID;
  if (!volume || !image) throw new Error('There is nothing to submit yet.');
  say('Submitting …');
  const body = new FormData();
  const about = { ...client(), ...state.model, label_info: segments().map(s => ({ name: s.label, idx: s.segmentIndex })) };
  body.append('params', JSON.stringify(about));
  body.append('label', await nrrd(volume), 'label.nrrd');
  const stored = await ask(`/datastore/label?image=${encodeURIComponent(image)}&tag=final`, { method: 'PUT', body });
  state.edited = false;
  const counts = Object.entries(stored.segments ?? {}).map(([name, count]) => `${name} ${count.toLocaleString('en')} voxels`);
  const where = { stored: 'in the archive', waiting: 'safe on the server, the archive gets it when it is back' };
  say(`Stored: ${[...counts, ...(stored.notes ?? []), where[stored.archive?.state]].filter(Boolean).join('; ')}.`, 'done');
  refresh();
}

// The label with its geometry, so that the server need not guess the order of the slices.
async function nrrd({ dimensions, spacing, origin, direction, voxelManager }) {
  const axis = i => `(${[0, 1, 2].map(j => direction[3 * i + j] * spacing[i]).join(',')})`;
  const zipped = typeof CompressionStream === 'function';
  const header = [
    'NRRD0004',
    'type: uint8',
    'dimension: 3',
    'space: left-posterior-superior',
    `sizes: ${[...dimensions].join(' ')}`,
    `space directions: ${[0, 1, 2].map(axis).join(' ')}`,
    'kinds: domain domain domain',
    'endian: little',
    `encoding: ${zipped ? 'gzip' : 'raw'}`,
    `space origin: (${[...origin].join(',')})`,
    '',
    '',
  ].join('\n');
  const data = new Blob([Uint8Array.from(voxelManager.getCompleteScalarDataArray())]);
  if (!zipped) return new Blob([header, data]);
  const small = await new Response(data.stream().pipeThrough(new CompressionStream('gzip'))).blob();
  return new Blob([header, small]);
}

// Drawing

function groups() {
  return GROUPS.map(id => state.services.toolGroupService.getToolGroup(id)).filter(Boolean);
}

function use(tool) {
  if (tool !== 'WindowLevel' && !labelmap()) {
    say('The labels are not ready yet: connect to the server below.', 'error');
    return;
  }
  for (const group of groups()) {
    const active = group.getActivePrimaryMouseButtonTool?.();
    if (active && active !== tool) group.setToolPassive(active);
    group.setToolActive(tool, { bindings: [{ mouseButton: 1 }] });
  }
  resize();
  showTool();
}

function showTool() {
  const active = groups()[0]?.getActivePrimaryMouseButtonTool?.();
  for (const [button, tool] of [[view.brush, BRUSH], [view.eraser, ERASER], [view.look, 'WindowLevel']]) {
    button.setAttribute('aria-pressed', String(active === tool));
  }
}

function resize() {
  for (const group of groups()) {
    window.cornerstoneTools.utilities.segmentation.setBrushSizeForToolGroup(group.id, Number(view.size.value));
  }
}

function showSegments() {
  const found = segments();
  const key = found.map(s => s.label).join('|');
  if (view.segments.dataset.key === key) return;
  view.segments.dataset.key = key;
  view.segments.replaceChildren(...found.map(segment => {
    const name = element('input', { type: 'radio', name: 'al-segment', value: segment.label, checked: Boolean(segment.active) });
    name.onclick = () => {
      state.services.segmentationService.setActiveSegment(SEGMENTATION, segment.segmentIndex);
      if (groups()[0]?.getActivePrimaryMouseButtonTool?.() === 'WindowLevel') use(BRUSH);
    };
    return element('label', {}, name, segment.label);
  }));
}

// Undo: after every change of the voxels, what they were before.

let settle = 0;
let drawing = false;
function changed() {
  clearTimeout(settle);
  settle = setTimeout(() => (drawing ? changed() : remember()), QUIET_MS);
}

function remember() {
  const now = voxels();
  if (!now) return;
  const before = history.known;
  history.known = Uint8Array.from(now);
  if (!before || before.length !== now.length) {
    history.steps = [];
    return;
  }
  const places = [];
  for (let i = 0; i < now.length; i += 1) if (now[i] !== before[i]) places.push(i);
  if (!places.length) return;
  history.steps.push({ places: Uint32Array.from(places), values: Uint8Array.from(places, i => before[i]) });
  if (history.steps.length > UNDO_STEPS) history.steps.shift();
  view.undo.disabled = false;
  state.edited = true;
}

function undo() {
  clearTimeout(settle);
  remember();
  const step = history.steps.pop();
  if (!step) return;
  const data = history.known;
  step.places.forEach((place, i) => { data[place] = step.values[i]; });
  labelmap().voxelManager.setCompleteScalarDataArray(data);
  history.known = Uint8Array.from(data);
  view.undo.disabled = !history.steps.length;
  const { segmentation } = window.cornerstoneTools;
  segmentation.triggerSegmentationEvents.triggerSegmentationDataModified(SEGMENTATION);
}

// Around MONAI Label's own panel

function address() {
  document.cookie = `MONAILABEL_SERVER_URL=${escape(`${location.origin}/`)}; path=/ohif`;
}

function connect(panel) {
  const field = panel.querySelector('#monailabelServerURL');
  const button = panel.querySelector('.settingsTable button');
  if (!field || !button || panel.dataset.connected) return;
  const { activeViewportId } = state.services.viewportGridService.getState();
  const viewport = state.services.cornerstoneViewportService.getCornerstoneViewport(activeViewportId);
  if (!viewport || !displaySet()) return;
  panel.dataset.connected = 'yes';
  field.value = `${location.origin}/`;
  button.click();
}

function preselect(panel) {
  const wanted = view.strategy.value;
  for (const select of panel.querySelectorAll('select')) {
    const names = [...select.options].map(option => option.value);
    if (select.dataset.preselected || !names.includes('random') || !names.includes(wanted)) continue;
    select.dataset.preselected = 'yes';
    select.value = wanted;
    select.dispatchEvent(new Event('change', { bubbles: true }));
  }
}

function attach() {
  const panel = document.querySelector('.monaiLabelPanel');
  if (!panel) return;
  if (!root.isConnected || root.nextElementSibling !== panel) panel.before(root);
  connect(panel);
  preselect(panel);
  const model = panel.querySelector('.modelSelector, select.selectBox');
  panel.querySelectorAll('button[title="Run Segmentation"]').forEach(button => {
    button.onclick = () => {
      state.model = { model: model?.value || state.progress.model, model_version: state.progress.model_version };
    };
  });
  showSegments();
  showTool();
  showWhy();
  if (!history.known && labelmap()) remember();
}

// The right series of a study: MONAI Label's layout takes the first that can be shown, whatever the address says.
function preferSeriesOfAddress() {
  const protocol = state.services.hangingProtocolService?.protocols?.get?.('mpr');
  const selector = protocol?.displaySetSelectors?.activeDisplaySet;
  if (!selector) return false;
  selector.seriesMatchingRules.push({ attribute: 'isDisplaySetFromUrl', weight: 10, constraint: { equals: true } });
  return true;
}

async function refresh() {
  try {
    state.progress = await ask(`/al/progress?${new URLSearchParams(client())}`);
  } catch (error) {
    view.progress.textContent = error.message;
    return;
  }
  const p = state.progress;
  const jobs = { train: `training${p.epochs ? ` ${p.epoch} of ${p.epochs}` : ''}`, scoring: 'choosing the next images' };
  const parts = [`${p.labelled} of ${p.total} labelled`, `${p.mine} by you`];
  if (p.skipped) parts.push(`${p.skipped} skipped`);
  if (p.round) parts.push(`round ${p.round}: ${p.remaining} left`);
  if (p.job) parts.push(`${jobs[p.job]} …`);
  view.progress.textContent = parts.join(' · ');
}

function until(condition, seconds) {
  return new Promise(resolve => {
    const end = Date.now() + 1000 * seconds;
    const timer = setInterval(() => {
      if (!condition() && Date.now() < end) return;
      clearInterval(timer);
      resolve(Boolean(condition()));
    }, 30);
  });
}

async function open() {
  state.session = await ask('/al/session');
  const names = state.session.strategies.map(({ name }) => name);
  view.strategy.replaceChildren(
    ...state.session.strategies.map(({ name, description }) => element('option', { value: name, textContent: name, title: description }))
  );
  view.strategy.value = names.includes(store.strategy) ? store.strategy : names[0];
  if (state.session.user) {
    view.reader.value = store.reader = state.session.user;
    view.reader.readOnly = true;
    view.signOut.hidden = false;
  }
}

export async function start(servicesManager) {
  state.services = servicesManager.services;
  address();
  build();
  document.head.append(element('link', { rel: 'stylesheet', href: '/al/web/ohif.css' }));
  const needed = ['hangingProtocolService', 'segmentationService', 'toolGroupService', 'viewportGridService', 'displaySetService'];
  const missing = () => needed.filter(name => !state.services[name]);
  // OHIF goes on with its start only when this function has returned.
  (async () => {
    let once = false;
    const ready = await until(() => {
      if (!missing().length && !once) once = preferSeriesOfAddress();
      return once && window.cornerstone && window.cornerstoneTools;
    }, 60);
    if (!ready) throw new Error(`this OHIF lacks ${missing().join(', ') || 'the layout or cornerstone that is needed'}`);
    const { SEGMENTATION_DATA_MODIFIED } = window.cornerstoneTools.Enums.Events;
    window.cornerstone.eventTarget.addEventListener(SEGMENTATION_DATA_MODIFIED, changed);
    window.addEventListener('pointerdown', () => { drawing = true; }, true);
    for (const end of ['pointerup', 'pointercancel', 'blur']) window.addEventListener(end, () => { drawing = false; }, true);
    window.addEventListener('beforeunload', event => { if (state.edited) event.preventDefault(); });
    await open().catch(complain);
    setInterval(attach, 300);
    setInterval(refresh, POLL_MS);
    refresh();
  })().catch(error => {
    console.error('The active-learning panel could not be added:', error);
    post('/al/viewer', { problem: error.message }).catch(() => {});
  });
}
