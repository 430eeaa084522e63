// Shows an image on a canvas: window and level, zoom, pan, channels; by mouse, touch and keyboard.

const SHARP_ABOVE = 3; // zoom from which pixels are shown as squares

export class Viewer {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.pixels = null;
    this.pointers = new Map();
    this.buffer = document.createElement("canvas");
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400));
    }, { passive: false });
    new ResizeObserver(() => this.#draw()).observe(canvas);
  }

  show(pixels) {
    this.pixels = pixels;
    this.channel = pixels && pixels.channels === 3 ? -1 : 0; // -1: all three as red, green and blue
    this.reset();
  }

  reset() {
    this.view = { zoom: 1, x: 0, y: 0 };
    this.#firstWindow();
  }

  #firstWindow() {
    if (this.pixels) {
      // Every channel has its own range: window and level are shares of the first window, 1 and 0.5 at the start.
      this.window = 1;
      this.level = 0.5;
    }
    this.#render();
  }

  setWindow(window, level) {
    if (!this.pixels) return;
    this.window = Math.min(2, Math.max(0.01, window));
    this.level = Math.min(1.5, Math.max(-0.5, level));
    this.#render();
  }

  nextChannel() {
    if (!this.pixels || this.pixels.channels === 1) return;
    this.channel = this.channel === 2 ? -1 : this.channel + 1;
    this.#render();
  }

  zoom(factor) {
    this.view.zoom = Math.min(32, Math.max(0.5, this.view.zoom * factor));
    this.#draw();
  }

  pan(x, y) {
    this.view.x += x;
    this.view.y += y;
    this.#draw();
  }

  /** Window width and centre in the image's own values, for people. */
  values() {
    if (!this.pixels) return "";
    const channel = Math.max(this.channel, 0);
    const { low, high } = this.pixels;
    const span = high[channel] - low[channel];
    const shown = (value) => Number(value.toPrecision(4)).toString();
    return `W ${shown(this.window * span)} · L ${shown(low[channel] + this.level * span)}`;
  }

  #lookup(channel) {
    const { bits, slope, intercept, low, high } = this.pixels;
    const table = new Uint8ClampedArray(bits === 8 ? 256 : 65536);
    const span = high[channel] - low[channel] || 1;
    for (let stored = 0; stored < table.length; stored++) {
      const share = (slope[channel] * stored + intercept[channel] - low[channel]) / span;
      table[stored] = 255 * ((share - this.level) / this.window + 0.5);
    }
    return table;
  }

  #render() {
    if (!this.pixels) {
      this.#draw();
      return;
    }
    const { width, height, values } = this.pixels;
    const size = width * height;
    const used = this.channel < 0 ? [0, 1, 2] : [this.channel, this.channel, this.channel];
    const tables = used.map((channel) => this.#lookup(channel));
    const image = new ImageData(width, height);
    for (let index = 0; index < size; index++) {
      for (let colour = 0; colour < 3; colour++) {
        image.data[4 * index + colour] = tables[colour][values[used[colour] * size + index]];
      }
      image.data[4 * index + 3] = 255;
    }
    this.buffer.width = width;
    this.buffer.height = height;
    this.buffer.getContext("2d").putImageData(image, 0, 0);
    this.#draw();
  }

  #draw() {
    const { canvas } = this;
    const ratio = devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (this.pixels) {
      const { width, height } = this.pixels;
      const scale = Math.min(canvas.width / width, canvas.height / height) * this.view.zoom;
      context.imageSmoothingEnabled = scale < SHARP_ABOVE * ratio;
      context.imageSmoothingQuality = "high";
      const x = (canvas.width - scale * width) / 2 + this.view.x * ratio;
      const y = (canvas.height - scale * height) / 2 + this.view.y * ratio;
      context.drawImage(this.buffer, x, y, scale * width, scale * height);
    }
    this.changed();
  }

  #down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  #move(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    const before = this.#spread();
    const x = event.clientX - last.x;
    const y = event.clientY - last.y;
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (this.pointers.size === 2) this.zoom(this.#spread() / (before || 1));
    else if (event.buttons & 2) this.setWindow(this.window * Math.exp(x / 300), this.level + y / 600);
    else this.pan(x, y);
  }

  /** Distance of two fingers. */
  #spread() {
    if (this.pointers.size !== 2) return 0;
    const [a, b] = [...this.pointers.values()];
    return Math.hypot(a.x - b.x, a.y - b.y);
  }
}
