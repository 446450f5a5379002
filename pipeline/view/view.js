// The page: the list of slides with its filters, the slide that is open, and the keyboard.

import { Gallery } from "./gallery.js";
import { Pane, className, element, json, link, number } from "./panes.js";

const $ = (id) => document.getElementById(id);
const SHOWN = 200, REFRESH = 15_000;
const state = { version: "", slides: [], shown: SHOWN, row: null, slide: null, outlines: null, panes: [], active: null, top: -1 };
const keyOf = (row) => ({ tiles: row.tiles, slide: row.id });
const same = (one, other) => one && other && one.tiles === other.tiles && one.id === other.id;

const app = {
  palettes: {},
  problem(text) {
    if ([...$("problems").children].some((item) => item.textContent === text)) return;
    $("problems").append(element("li", text));
    while ($("problems").children.length > 6) $("problems").firstElementChild.remove();
    $("problems").hidden = false;
  },
  chosen(pane) {
    if (pane === state.active) showTop();
  },
  folded() {
    for (const pane of state.panes) pane.fillLayers();
  },
  activated(pane) {
    if (pane === state.active) return;
    state.active = pane;
    for (const one of state.panes) one.root.classList.toggle("active", one === pane);
    showTop();
  },
};

function clearProblems() {
  $("problems").replaceChildren();
  $("problems").hidden = true;
}

// ----- the list -----

function words(said) {
  return [said.uncertain ? "uncertain" : "", said.call, said.value].filter(Boolean).join(" ");
}

// A line of what a model says of a slide, with what the patient is known to be.
function saying(model, said) {
  const line = element("span", `${model}: ${words(said)}`, { title: [said.uncertain, said.note].filter(Boolean).join("; ") });
  if (said.uncertain) line.classList.add("doubt");
  if (said.target) line.append(`, target ${said.target}`);
  if (said.right !== null) line.append(": ", element("b", said.right ? "right" : "wrong", { class: said.right ? "right" : "wrong" }));
  if (said.status !== "done") line.append(` (${said.status})`);
  return line;
}

function artefacts(row) {
  if (row.artefacts === null) return "";
  return ` · artefacts ${number(100 * row.artefacts)} %${row.dropped ? `, ${row.dropped.toLocaleString("en")} tiles dropped` : ""}`;
}

const ARTEFACTS = {
  dropped: (row) => row.dropped > 0,
  some: (row) => row.artefacts > 0,
  much: (row) => row.artefacts > 0.2,
  none: (row) => row.artefacts === 0,
};

function calls(row) {
  return Object.entries(row.said).flatMap(([model, said]) => [
    ...(said.uncertain ? [`${model}: uncertain`] : []),
    ...(said.call ? [`${model}: ${said.call}`] : []),
    ...(said.right !== null ? [`${model}: target ${said.target}`, `${model}: ${said.right ? "right" : "wrong"}`] : []),
    ...(said.status !== "done" ? [`${model}: ${said.status}`] : []),
  ]);
}

function matching() {
  const search = $("search").value.trim().toLowerCase().split(/\s+/).filter(Boolean), { value: of } = $("state"), { value: call } = $("call");
  const clean = ARTEFACTS[$("artefacts").value] ?? (() => true);
  const found = state.slides.filter((row) => {
    const text = [row.id, row.tiles, row.state, row.why, ...calls(row)].join(" ").toLowerCase();
    return (!of || row.state === of) && clean(row) && (!call || calls(row).includes(call)) && search.every((word) => text.includes(word));
  });
  const { value: order } = $("order");
  const rank = (row) => (order.startsWith("said ") ? parseFloat(row.said[order.slice(5)]?.value) : row[order]);
  const known = (row) => (Number.isFinite(rank(row)) ? rank(row) : -Infinity);
  return order ? found.sort((a, b) => (known(b) === known(a) ? 0 : known(b) - known(a))) : found;
}

function listItem(row, several) {
  const button = element("button", "", { type: "button", class: "slide", "aria-current": String(Boolean(same(row, state.row))) });
  const picture = element("img", "", { loading: "lazy", alt: "", width: 60, height: 60 });
  picture.addEventListener("error", () => picture.classList.add("none"));
  if (row.state !== "failed") picture.src = `thumbnail?${new URLSearchParams(keyOf(row))}`;
  else picture.classList.add("none");
  const what = element("span", "", { class: "what" });
  const bad = ["failed", "stale", "lost"].includes(row.state);
  what.append(element("span", row.state, bad ? { class: "wrong" } : {}));
  if (row.count !== null) what.append(` · ${row.count.toLocaleString("en")} tiles`);
  if (row.tissue !== null) what.append(` · ${number(row.tissue)} mm²`);
  what.append(artefacts(row));
  if (several) what.append(` · ${row.tiles}`);
  if (row.why) button.title = row.why;
  const said = element("span", "", { class: "said" });
  said.append(...Object.entries(row.said).map(([model, one]) => saying(model, one)));
  button.append(picture, element("span", row.id, { class: "id" }), what, said);
  button.addEventListener("click", () => openSlide(row));
  const item = element("li");
  item.append(button);
  return item;
}

function showList() {
  const found = matching(), several = new Set(state.slides.map((row) => row.tiles)).size > 1;
  $("slides").replaceChildren(...found.slice(0, state.shown).map((row) => listItem(row, several)));
  $("more").hidden = found.length <= state.shown;
  $("found").textContent = found.length === state.slides.length ? `${found.length.toLocaleString("en")} slides` : `${found.length.toLocaleString("en")} of ${state.slides.length.toLocaleString("en")} slides`;
}

function refill(select, values, keep = 1) {
  const before = select.value;
  while (select.options.length > keep) select.remove(keep);
  for (const [value, text] of values) select.add(new Option(text, value));
  select.value = [...select.options].some((option) => option.value === before) ? before : "";
}

async function refresh() {
  const list = await json("slides.json", { version: state.version });
  if (list.version === state.version) return;
  state.version = list.version;
  state.slides = list.slides;
  $("workspace").textContent = document.title = list.workspace;
  $("notes").replaceChildren(...list.notes.map((note) => element("li", note)));
  $("notes").hidden = !list.notes.length;
  gallery.offer(list.galleries, list.version);
  refill($("state"), [...new Set(list.slides.map((row) => row.state))].sort().map((one) => [one, one]));
  refill($("call"), [...new Set(list.slides.flatMap(calls))].sort().map((one) => [one, one]));
  $("artefacts").hidden = !list.slides.some((row) => row.artefacts !== null);
  if ($("artefacts").hidden) $("artefacts").value = "";
  const orders = $("artefacts").hidden ? [] : [["artefacts", "most artefacts"], ["dropped", "most tiles dropped for artefacts"]];
  refill($("order"), [...orders, ...list.models.map((model) => [`said ${model}`, `by ${model}`])], 3);
  showList();
  const now = state.slides.find((row) => same(row, state.row));
  if (now && JSON.stringify(now) !== JSON.stringify(state.row)) await openSlide(now, true);
}

// ----- the slide -----

// choose: gives the id of the layer that is to be shown first, of a slide as slide.json describes it.
async function openSlide(row, again = false, choose = null) {
  const layers = state.panes.map((pane) => pane.layerInput.value), place = again ? placeShown() : null;
  state.row = row;
  state.slide = state.outlines = null;
  document.body.classList.add("viewing");
  history.replaceState(null, "", `#${new URLSearchParams(keyOf(row))}`);
  for (const button of $("slides").querySelectorAll(".slide")) button.setAttribute("aria-current", "false");
  showList();
  clearProblems();
  for (const pane of state.panes) pane.leave();
  $("strip").hidden = true;
  $("name").textContent = row.id;
  $("facts").textContent = "opening …";
  $("said").replaceChildren();
  try {
    const [slide, outlines] = await Promise.all([json("slide.json", keyOf(row)), json("outlines.json", keyOf(row))]);
    if (state.row !== row) return;
    state.slide = { ...slide, key: keyOf(row), byFold: {}, reading: {} };
    state.outlines = outlines;
    $("facts").textContent = slide.facts.join(" · ");
    $("facts").title = `read by ${slide.reader}`;
    $("said").replaceChildren(...Object.entries(row.said).map(([model, said]) => answer(model, said, slide.folds[model])));
    slide.notes.forEach(app.problem);
    if (choose) layers[0] = choose(slide) ?? layers[0] ?? "kept";
    const first = slide.layers.find((layer) => layer.name === "attention") ?? slide.layers.find((layer) => layer.of);
    const has = (id) => slide.layers.some((layer) => layer.id === id) || slide.sources.some((one) => one.folds.includes(id.split("/")[0]));
    showPanes(layers.some(has) ? layers : [first?.id ?? "kept", layers[1] ?? "kept"], place);
  } catch (error) {
    if (state.row !== row) return;
    $("facts").textContent = "";
    if (row.why && !error.message.includes(row.why)) app.problem(`${row.state}: ${row.why}`);
    app.problem(error.message);
  }
}

// A model's prediction, with the score of each fold that read the slide.
function answer(model, said, folds) {
  const line = saying(model, said);
  if (folds) line.append(element("span", ` (scores of folds ${Object.entries(folds).map(([fold, score]) => `${fold}: ${number(score)}`).join(", ")})`, { class: "faint" }));
  return line;
}

function placeShown() {
  const map = state.panes[0]?.map;
  return map ? [map.getCenter(), map.getZoom()] : null;
}

function showPanes(layers, place) {
  const wanted = $("two").checked ? 2 : 1;
  while (state.panes.length > wanted) state.panes.pop().remove();
  while (state.panes.length < wanted) state.panes.push(new Pane($("panes"), app));
  if (!state.panes.includes(state.active)) state.active = state.panes[0];
  for (const pane of state.panes) {
    pane.root.classList.toggle("active", pane === state.active);
    pane.root.classList.toggle("among", wanted > 1);
  }
  if (!state.slide) return;
  state.panes.forEach((pane, index) => pane.open(state.slide, layers[index] ?? "kept"));
  if (wanted > 1) link(...state.panes);
  showOutlines();
  showTop();
  fit();
  if (place) state.panes[0].map.setView(...place, { animate: false });
}

function showOutlines() {
  for (const pane of state.panes) pane.outline(state.outlines, $("outline").checked);
}

function fit() {
  for (const pane of state.panes) pane.fit();
}

// The top tiles of the active view's layer, and of a layer with two signs those that speak most against, too; of a
// layer of slots the tiles nearest to each.
function showTop() {
  const strip = $("strip"), layer = state.active?.layer;
  state.top = -1;
  strip.replaceChildren();
  for (const [which, tiles] of layer ? [["highest", layer.top], ["lowest", layer.bottom]] : []) {
    if (tiles.length) strip.append(element("b", `${which} ${layer.name}`), ...tiles.map(tileButton));
  }
  if (layer?.slots?.length) strip.append(element("b", "tiles nearest to each slot, and how near"));
  for (const slot of layer?.slots ?? []) strip.append(slotButton(layer, slot), ...slot.nearest.map(tileButton));
  strip.hidden = !strip.children.length;
}

function tileButton([x, y, value]) {
  const button = element("button", number(value), { type: "button", class: "tile", "aria-pressed": "false", title: `tile at ${x}, ${y}` });
  const picture = element("img", "", { alt: "", loading: "lazy", width: 72, height: 72 });
  picture.src = `crop?${new URLSearchParams({ ...state.slide.key, x, y, side: state.slide.tile })}`;
  button.prepend(picture);
  button.addEventListener("click", () => jump([...$("strip").querySelectorAll(".tile")].indexOf(button)));
  button.place = [x, y];
  return button;
}

// A slot's name, and what it is to this slide; it shows this slot alone, and all of them again.
function slotButton(layer, slot) {
  const only = state.active.onlyInput, shown = only.value === String(slot.slot);
  const button = element("button", "", { type: "button", class: "slot", "aria-pressed": String(shown), title: "show this slot alone" });
  const about = [`${slot.tiles.toLocaleString("en")} tiles`, `${number(100 * slot.attention)} % of attention`];
  if (slot.weight !== null) about.push(`weight ${slot.weight > 0 ? "+" : ""}${number(slot.weight)}`);
  button.append(element("b", className(layer, slot.slot)), ...about.map((line) => element("span", line)));
  button.addEventListener("click", () => {
    const at = [...$("strip").children].indexOf(button);
    only.value = shown ? "" : String(slot.slot);
    only.dispatchEvent(new Event("change"));
    $("strip").children[at].focus();
  });
  return button;
}

function jump(index) {
  const buttons = [...$("strip").querySelectorAll(".tile")];
  if (!buttons.length) return;
  state.top = (index + buttons.length) % buttons.length;
  buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(at === state.top)));
  buttons[state.top].scrollIntoView({ block: "nearest", inline: "nearest" });
  for (const pane of state.panes) pane.jump(...buttons[state.top].place);
}

// A tile of the gallery: its slide is opened there, with the slots of the fold.
async function jumpFromGallery(tile, model, fold) {
  const row = state.slides.find((one) => one.tiles === tile.tiles && one.id === tile.slide);
  if (!row) {
    document.body.classList.add("viewing");
    app.problem(`${tile.slide} is not among the slides of this workspace any more`);
    return;
  }
  const named = (slide) => slide.sources.find((one) => one.model === `models/${model}`)?.folds.find((name) => name.endsWith(`, fold ${fold}`));
  await openSlide(row, false, (slide) => named(slide) && `${named(slide)}/slot`);
  if (state.row !== row || !state.slide) return;
  for (const pane of state.panes) pane.jump(...tile.place);
}

const gallery = new Gallery(jumpFromGallery);

// ----- controls -----

function step(by) {
  const found = matching(), at = found.findIndex((row) => same(row, state.row));
  const next = found[at < 0 ? 0 : at + by];
  if (next) openSlide(next);
}

function nudge(input, by) {
  if (!input) return;
  input.value = Number(input.value) + by;
  input.dispatchEvent(new Event("input"));
}

function nextLayer(by) {
  const select = state.active?.layerInput;
  if (!select?.options.length) return;
  select.selectedIndex = (select.selectedIndex + by + select.options.length) % select.options.length;
  state.active.chooseLayer();
}

function back() {
  document.body.classList.remove("viewing");
  $("search").focus();
}

const KEYS = {
  n: () => step(1),
  p: () => step(-1),
  0: fit,
  l: () => nextLayer(1),
  L: () => nextLayer(-1),
  f: () => state.active?.nextFold(1),
  F: () => state.active?.nextFold(-1),
  "[": () => nudge(state.active?.opacityInput, -10),
  "]": () => nudge(state.active?.opacityInput, 10),
  ",": () => nudge(state.active?.thresholdInput, -5),
  ".": () => nudge(state.active?.thresholdInput, 5),
  t: () => jump(state.top + 1),
  T: () => jump(state.top < 0 ? -1 : state.top - 1),
  g: () => gallery.open(),
  o: () => $("outline").click(),
  2: () => $("two").click(),
  "/": () => $("search").focus(),
  "?": () => $("help").showModal(),
  Escape: back,
};

document.addEventListener("keydown", (event) => {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) && event.target.type !== "range" && event.target.type !== "checkbox";
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") || (typing && event.key !== "Escape")) return;
  if (Object.hasOwn(KEYS, event.key)) {
    event.preventDefault();
    KEYS[event.key]();
  }
});

function again() {
  state.shown = SHOWN;
  showList();
}

for (const id of ["search", "state", "call", "artefacts", "order"]) $(id).addEventListener("input", again);
$("more").addEventListener("click", () => {
  state.shown += SHOWN;
  showList();
});
$("back").addEventListener("click", back);
$("fit").addEventListener("click", fit);
$("outline").addEventListener("change", showOutlines);
$("two").addEventListener("change", () => showPanes(state.panes.map((pane) => pane.layerInput.value), placeShown()));
$("help-button").addEventListener("click", () => $("help").showModal());

async function start() {
  const asked = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  history.replaceState(null, "", location.pathname + location.hash); // the token is in the cookie by now
  try {
    app.palettes = await json("palettes.json");
    await refresh();
  } catch (error) {
    app.problem(error.message);
    document.body.classList.add("viewing");
    return;
  }
  const row = state.slides.find((one) => one.id === asked.slide && one.tiles === asked.tiles);
  if (row) await openSlide(row);
  else if (matchMedia("(min-width: 701px)").matches) {
    const first = state.slides.find((one) => one.state === "predicted") ?? state.slides.find((one) => one.count);
    if (first) await openSlide(first);
  }
  setInterval(() => document.hidden || refresh().catch((error) => app.problem(error.message)), REFRESH);
}

start();
