// A pane: one map of the slide with one layer over it, its controls, and what lies under the pointer.

const TILE = 256, FRAME = 128;

export async function ask(path, query = {}, signal = undefined) {
  let answer;
  try {
    answer = await fetch(`${path}?${new URLSearchParams(query)}`, { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The viewer has ended. Start wsipipe view again, and open the address that it prints.");
  }
  if (answer.ok) return answer;
  const type = answer.headers.get("Content-Type") ?? "";
  const said = type.startsWith("application/json") ? await answer.json() : { problem: await answer.text() };
  throw new Error(said.hint ? `${said.problem} → ${said.hint}` : said.problem);
}

export const json = async (path, query, signal) => (await ask(path, query, signal)).json();

export function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : Number(value.toPrecision(3)).toString();
}

// A slot's name where the network says it, else its number.
export const className = (layer, code) => layer.names[code] ?? String(code);

// Tiles drawn on canvases from what the server sends; a tile that leaves the view is not waited for.
const ServerTiles = L.GridLayer.extend({
  createTile(coords, done) {
    const canvas = element("canvas", "", { width: TILE, height: TILE });
    const leaving = canvas.leaving = new AbortController();
    this.options.draw(canvas, { z: coords.z, x: coords.x, y: coords.y }, leaving.signal).then(
      () => done(null, canvas),
      (error) => {
        if (error.name === "AbortError") return;
        done(error, canvas);
        this.options.failed(error, canvas);
      },
    );
    return canvas;
  },
});

function serverTiles(options) {
  const layer = new ServerTiles({ tileSize: TILE, noWrap: true, minNativeZoom: 0, keepBuffer: 2, ...options });
  layer.on("tileunload", (event) => event.tile.leaving.abort());
  return layer;
}

function hatch(canvas) {
  const pen = canvas.getContext("2d");
  pen.strokeStyle = "#b9512f";
  for (let at = -TILE; at < TILE; at += 24) {
    pen.beginPath();
    pen.moveTo(at, TILE);
    pen.lineTo(at + TILE, 0);
    pen.stroke();
  }
}

export class Pane {
  // app: { palettes, problem(text), chosen(pane), folded(), activated(pane) }
  constructor(parent, app) {
    this.app = app;
    this.root = document.getElementById("pane").content.firstElementChild.cloneNode(true);
    parent.append(this.root);
    this.slide = this.layer = this.map = null;
    for (const name of ["layer", "scale", "opacity", "threshold", "only", "grey"]) this[`${name}Input`] = this.root.querySelector(`.${name}`);
    this.layerInput.addEventListener("change", () => this.chooseLayer());
    this.scaleInput.addEventListener("change", () => this.drawLayer());
    this.opacityInput.addEventListener("input", () => this.tiles?.setOpacity(this.opacityInput.value / 100));
    this.thresholdInput.addEventListener("input", () => this.recolour());
    this.onlyInput.addEventListener("change", () => {
      this.recolour();
      app.chosen(this);
    });
    this.greyInput.addEventListener("change", () => this.root.classList.toggle("greyed", this.greyInput.checked));
    this.root.querySelector(".controls").open = matchMedia("(min-width: 701px)").matches;
    this.root.addEventListener("pointerdown", () => app.activated(this), true);
    this.root.querySelector(".map").addEventListener("pointerleave", () => this.point(null));
    this.root.addEventListener("focusin", () => app.activated(this));
  }

  remove() {
    this.leave();
    this.root.remove();
  }

  leave() {
    this.asking?.abort();
    this.resizing?.disconnect();
    this.map?.remove();
    this.map = this.tiles = this.slide = this.layer = null;
    this.root.querySelector(".values").hidden = true;
  }

  // Show a slide, as slide.json describes it, with a layer of that id if it has one.
  open(slide, layer) {
    this.leave();
    this.slide = slide;
    const crs = L.extend({}, L.CRS.Simple, {
      transformation: new L.Transformation(1, 0, 1, 0),
      scale: (zoom) => 2 ** (zoom - slide.zoom),
      zoom: (scale) => Math.log2(scale) + slide.zoom,
    });
    this.bounds = L.latLngBounds([0, 0], [slide.height, slide.width]);
    this.map = L.map(this.root.querySelector(".map"), {
      crs, minZoom: 0, maxZoom: slide.zoom + 2, zoomSnap: 0.5, zoomDelta: 1, wheelPxPerZoomLevel: 90,
      maxBounds: this.bounds.pad(0.5), attributionControl: false, zoomControl: true,
    });
    this.map.getContainer().setAttribute("role", "application");
    this.map.getContainer().setAttribute("aria-label", `Slide ${slide.id}: + and − zoom, arrows move`);
    this.fit();
    const failed = (error, canvas) => {
      hatch(canvas);
      this.app.problem(error.message);
    };
    serverTiles({
      bounds: this.bounds, maxNativeZoom: slide.zoom, maxZoom: slide.zoom + 2, failed, className: "slide-layer",
      draw: async (canvas, at, signal) => {
        const blob = await (await ask("zoom", { ...slide.key, ...at }, signal)).blob();
        const picture = await createImageBitmap(blob);
        canvas.getContext("2d").drawImage(picture, 0, 0);
        picture.close();
      },
    }).addTo(this.map);
    this.frame = L.rectangle([[0, 0], [0, 0]], { color: "#d6336c", weight: 2, fill: false, interactive: false });
    this.map.on("mousemove click", (event) => this.point(event));
    this.map.on("move zoomend resize", () => this.measure());
    this.measure();
    this.listLayers(layer);
    this.resizing = new ResizeObserver(() => this.map?.invalidateSize({ pan: false }));
    this.resizing.observe(this.map.getContainer());
  }

  fit() {
    this.map?.invalidateSize({ animate: false, pan: false }); // what is beside the map may just have come or gone
    this.map?.fitBounds(this.bounds, { animate: false });
  }

  listLayers(wanted) {
    this.fillLayers();
    const stands = (value) => [...this.layerInput.options].some((option) => option.value === value);
    const [of] = wanted.split("/"), name = wanted.slice(of.length + 1);
    this.layerInput.value = stands(wanted) ? wanted : of && stands(`${of}/`) ? `${of}/` : "";
    this.chooseLayer(name);
  }

  // The layers of the slide. A fold that has not read it yet is one entry, whose value has no name after the stroke.
  fillLayers() {
    const { layers, sources, byFold } = this.slide, chosen = this.layerInput.value;
    const named = (layer) => `${layer.name}${layer.of ? ` · ${layer.of}` : ""}${layer.stale ? " (stale)" : ""}`;
    const of = (model) => (byFold[model] ?? layers.filter((layer) => layer.of === model)).map((layer) => new Option(named(layer), layer.id));
    const models = new Set([...layers, ...sources].map((one) => one.of).filter(Boolean));
    const options = [new Option("no layer", ""), new Option("tiles: kept and dropped", "kept"), ...of("")];
    for (const model of models) {
      options.push(...of(model));
      const source = sources.find((one) => one.of === model);
      for (const fold of source?.folds ?? []) options.push(...(byFold[fold] ? of(fold) : [new Option(`${fold} …`, `${fold}/`)]));
      if (source?.why_none) {
        options.push(new Option(`${model}: no single folds, ${source.why_none}`, `${model}/`));
        options.at(-1).disabled = true;
      }
    }
    this.layerInput.replaceChildren(...options);
    this.layerInput.value = chosen;
  }

  // Have the slide read by a fold, and show its layer of that name.
  async readFold(fold, name) {
    const { slide } = this;
    try {
      slide.reading[fold] ??= json("fold.json", { ...slide.key, of: fold });
      slide.byFold[fold] = await slide.reading[fold];
    } catch (error) {
      delete slide.reading[fold];
      if (this.slide !== slide) return;
      this.app.problem(error.message);
      this.root.querySelector(".meaning").replaceChildren(element("p", "this fold could not read the slide"));
      return;
    }
    if (this.slide !== slide) return;
    this.app.folded();
    if (this.awaited !== fold) return;
    const layers = slide.byFold[fold];
    this.layerInput.value = (layers.find((layer) => layer.name === name) ?? layers[0]).id;
    this.chooseLayer();
  }

  // The mean over the folds, then each fold, of the model whose layer is shown.
  nextFold(by) {
    const of = this.layer?.of ?? this.awaited;
    const source = this.slide?.sources.find((one) => one.of === of || one.folds.includes(of));
    if (!source) return;
    const mean = this.slide.layers.filter((layer) => layer.of === source.of);
    const ring = [...(mean.length ? [source.of] : []), ...source.folds], { name } = this;
    const next = ring[(ring.indexOf(of) + by + ring.length) % ring.length];
    const own = mean.find((layer) => layer.name === name) ?? mean[0];
    this.listLayers(next === source.of ? own.id : `${next}/${name}`);
  }

  chooseLayer(name = this.name) {
    const id = this.layerInput.value, { slide } = this;
    this.awaited = id.endsWith("/") ? id.slice(0, -1) : "";
    const known = [...slide.layers, ...Object.values(slide.byFold).flat()].find((layer) => layer.id === id);
    this.layer = id === "kept" ? { id, kind: "kept", top: [], bottom: [], slots: [] } : known ?? null;
    this.name = this.layer?.name ?? name;
    const kind = this.layer?.kind;
    this.thresholdInput.value = 0;
    this.onlyInput.replaceChildren(new Option("all", ""), ...(this.layer?.classes ?? []).map((one) => new Option(className(this.layer, one), one)));
    this.root.querySelector(".settings").hidden = !kind;
    this.root.querySelector(".thresholding").hidden = kind !== "scale" && kind !== "signed";
    this.root.querySelector(".scaling").hidden = this.root.querySelector(".thresholding").hidden || this.layer.share;
    this.root.querySelector(".choosing").hidden = kind !== "classes";
    this.drawLayer();
    this.app.chosen(this);
    if (!this.awaited) return;
    this.root.querySelector(".meaning").replaceChildren(element("p", "the fold reads the slide …"));
    this.readFold(this.awaited, name);
  }

  drawLayer() {
    this.tiles?.remove();
    this.tiles = null;
    this.recolour();
    if (!this.layer) return;
    const { slide } = this, query = { ...slide.key, layer: this.layer.id, scale: this.scaleInput.value };
    this.tiles = serverTiles({
      bounds: this.bounds, maxNativeZoom: slide.zoom, maxZoom: slide.zoom + 2, className: "values-layer",
      opacity: this.opacityInput.value / 100, zIndex: 5, failed: (error) => this.app.problem(error.message),
      draw: async (canvas, at, signal) => {
        canvas.codes = new Uint8Array(await (await ask("layer", { ...query, ...at }, signal)).arrayBuffer());
        this.paint(canvas);
      },
    }).addTo(this.map);
  }

  // The colours of the numbers 0 to 255, as the threshold and the choice leave them.
  lookUp() {
    const { kind } = this.layer, share = this.thresholdInput.value / 100, only = this.onlyInput.value;
    const table = new Uint32Array(256), bytes = new Uint8Array(table.buffer);
    this.app.palettes[kind].forEach((colour, code) => {
      const hidden = (kind === "scale" && share > 0 && code < 1 + 254 * share)
        || (kind === "signed" && share > 0 && Math.abs(code - 128) < 127 * share)
        || (kind === "classes" && only !== "" && code !== Number(only) + 1);
      if (!hidden) for (let part = 0; part < 4; part++) bytes[4 * code + part] = parseInt(colour.slice(2 * part, 2 * part + 2), 16);
    });
    return table;
  }

  paint(canvas) {
    const pen = canvas.getContext("2d"), picture = pen.createImageData(TILE, TILE);
    const pixels = new Uint32Array(picture.data.buffer), { codes } = canvas, table = this.table;
    for (let at = 0; at < codes.length; at++) pixels[at] = table[codes[at]];
    pen.putImageData(picture, 0, 0);
  }

  recolour() {
    const legend = this.root.querySelector(".meaning");
    if (!this.layer) {
      legend.replaceChildren();
      return;
    }
    this.table = this.lookUp();
    for (const canvas of this.root.querySelectorAll(".values-layer canvas")) if (canvas.codes) this.paint(canvas);
    this.root.querySelector("output").textContent = this.thresholdText();
    legend.replaceChildren(...this.legend());
  }

  thresholdText() {
    const share = this.thresholdInput.value / 100, values = this.layer.thresholds?.[this.scaleInput.value] ?? [];
    if (!share || !values.length) return "all tiles";
    const at = share * (values.length - 1), low = Math.floor(at), high = Math.min(low + 1, values.length - 1);
    const value = number(values[low] + (at - low) * (values[high] - values[low]));
    const what = this.layer.kind === "signed" ? `at least ±${value}` : `at least ${value}`;
    return this.scaleInput.value === "rank" && !this.layer.share ? `the top ${Math.round(100 * (1 - share))} %, ${what}` : what;
  }

  legend() {
    const { layer } = this, swatch = (from, to, width) => {
      const canvas = element("canvas", "", { width, height: 1 }), pen = canvas.getContext("2d"), picture = pen.createImageData(width, 1);
      const pixels = new Uint32Array(picture.data.buffer);
      for (let at = 0; at < width; at++) pixels[at] = this.table[Math.round(from + (to - from) * at / Math.max(width - 1, 1))];
      pen.putImageData(picture, 0, 0);
      return canvas;
    };
    const list = (names) => {
      const items = element("ul");
      for (const [code, name] of names) {
        const item = element("li");
        item.append(swatch(code, code, 1), name);
        items.append(item);
      }
      return items;
    };
    if (layer.kind === "kept") {
      const artefacts = this.slide.artefacts ? [[4 + FRAME, "dropped for artefacts"]] : [];
      return [list([[1 + FRAME, "kept"], [2 + FRAME, "dropped"], [3 + FRAME, "cannot be decoded"], ...artefacts])];
    }
    if (layer.kind === "classes") return [list(layer.classes.map((one) => [one + 1, className(layer, one)]))];
    if (layer.low === null) return [element("p", "no tile has a value")];
    const ends = element("div", "", { class: "ends" }), most = Math.max(-layer.low, layer.high);
    const words = layer.kind === "signed" ? [`against −${number(most)}`, `for +${number(most)}`] : [number(layer.low), number(layer.high)];
    ends.append(...words.map((word) => element("span", word)));
    return [swatch(1, 255, 255), ends];
  }

  // Say what lies under the pointer; of requests that overtake each other the last one counts.
  async point(event) {
    const values = this.root.querySelector(".values");
    if (!event || !this.slide) {
      this.asking?.abort();
      values.hidden = true;
      this.frame?.remove();
      return;
    }
    const { lat: y, lng: x } = event.latlng, at = event.containerPoint;
    this.asking?.abort();
    const asking = this.asking = new AbortController();
    try {
      await new Promise((resolve) => setTimeout(resolve, 30));
      if (asking.signal.aborted) return;
      const tile = await json("at", { ...this.slide.key, x, y, of: this.layer?.of ?? "" }, asking.signal);
      values.hidden = !tile;
      if (!tile) {
        this.frame.remove();
        return;
      }
      this.frame.setBounds([[tile.y, tile.x], [tile.y + tile.side, tile.x + tile.side]]).addTo(this.map);
      const lines = tile.values.map(([name, value]) => {
        const line = element("div");
        line.append(element("span", name), element("b", value));
        return line;
      });
      values.replaceChildren(element("span", `tile at ${tile.x}, ${tile.y}: ${tile.kind}`, { class: "faint" }), ...lines);
      const room = this.root.getBoundingClientRect(), box = values.getBoundingClientRect();
      values.style.left = `${Math.max(4, at.x + 16 + box.width > room.width ? at.x - box.width - 16 : at.x + 16)}px`;
      values.style.top = `${Math.max(4, at.y + 16 + box.height > room.height ? at.y - box.height - 16 : at.y + 16)}px`;
    } catch (error) {
      if (error.name !== "AbortError") this.app.problem(error.message);
    }
  }

  outline(pieces, shown) {
    this.outlineLayer?.remove();
    this.outlineLayer = null;
    if (!shown || !pieces || !this.map) return;
    const rings = pieces.map((piece) => piece.map((ring) => ring.map(([x, y]) => [y, x])));
    this.outlineLayer = L.polygon(rings, { color: "#00823c", weight: 2, fill: false, interactive: false }).addTo(this.map);
  }

  // Go to a tile, so large that its cells can be seen.
  jump(x, y) {
    this.map.invalidateSize({ animate: false, pan: false });
    const { slide } = this, side = slide.tile, size = this.map.getSize();
    const zoom = Math.min(slide.zoom + 1, slide.zoom + Math.log2(Math.min(size.x, size.y) / 2.5 / side));
    this.map.setView([y + side / 2, x + side / 2], Math.max(zoom, 0), { animate: false });
    this.mark?.remove();
    this.mark = L.rectangle([[y, x], [y + side, x + side]], { color: "#d6336c", weight: 3, fill: false, interactive: false }).addTo(this.map);
  }

  measure() {
    if (!this.map) return;
    const zoom = this.map.getZoom(), { classList } = this.root;
    classList.toggle("beyond", zoom > this.slide.zoom);
    classList.toggle("between", zoom !== Math.round(zoom));
    const micron = this.slide.mpp / 2 ** (zoom - this.slide.zoom), ruler = this.root.querySelector(".ruler");
    const most = 110 * micron, power = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].map((step) => step * power).find((step) => step <= most);
    const bar = ruler.querySelector("span");
    ruler.replaceChildren(length >= 1000 ? `${length / 1000} mm` : `${number(length)} µm`, bar);
    bar.style.width = `${length / micron}px`;
  }
}

// Two panes show the same place: what moves in one moves in the other.
export function link(one, other) {
  let following = false;
  const follow = (from, to) => from.map.on("move zoomend", () => {
    if (following || !to.map) return;
    following = true;
    to.map.setView(from.map.getCenter(), from.map.getZoom(), { animate: false });
    following = false;
  });
  follow(one, other);
  follow(other, one);
}
