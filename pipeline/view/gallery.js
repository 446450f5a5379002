// The gallery of a model's memory: for each slot the tiles nearest to it over all test slides of a fold, each of which
// opens its slide at its place.

import { element, json, number } from "./panes.js";

const $ = (id) => document.getElementById(id);

export class Gallery {
  // jump: what is done with a tile { tiles, slide, place } of a fold of a model.
  constructor(jump) {
    this.jump = jump;
    this.models = [];
    this.shown = this.version = "";
    $("gallery-button").addEventListener("click", () => this.open());
    $("gallery-close").addEventListener("click", () => $("gallery").close());
    $("gallery-model").addEventListener("change", () => this.read());
    $("gallery-fold").addEventListener("change", () => this.show());
  }

  // The models that have one, whenever the list of slides has changed.
  offer(models, version) {
    this.models = models;
    this.version = version;
    $("gallery-button").hidden = !models.length;
  }

  open() {
    if (!this.models.length) return;
    const before = $("gallery-model").value;
    $("gallery-model").replaceChildren(...this.models.map((model) => new Option(model, model)));
    if (this.models.includes(before)) $("gallery-model").value = before;
    $("gallery").showModal();
    this.read();
  }

  async read() {
    const model = $("gallery-model").value, shown = `${this.version} ${model}`;
    if (this.shown === shown) return; // as it was left
    try {
      const folds = await json("gallery.json", { model });
      if ($("gallery-model").value !== model) return;
      this.folds = folds;
      this.shown = shown;
      $("gallery-fold").replaceChildren(...folds.map(({ fold }) => new Option(`fold ${fold}`, fold)));
      this.show();
    } catch (error) {
      this.shown = "";
      $("gallery-slots").replaceChildren(element("p", error.message, { class: "notes", role: "alert" }));
    }
  }

  show() {
    const of = this.folds.find(({ fold }) => String(fold) === $("gallery-fold").value);
    $("gallery-slots").replaceChildren(...(of?.slots ?? []).map((slot) => this.slot(slot, of.fold)));
    $("gallery").scrollTop = 0;
  }

  slot(slot, fold) {
    const figure = element("figure"), said = [`use ${percent(slot.use)}`, `attention ${percent(slot.attention)}`];
    if (slot.weight !== null) said.push(`weight ${slot.weight > 0 ? "+" : ""}${number(slot.weight).replace("-", "−")}`);
    const caption = element("figcaption", slot.name), tiles = element("div", "", { class: "tiles" });
    caption.append(" ", element("span", said.join(", ")));
    tiles.append(...slot.tiles.map((tile) => this.tile(tile, fold)));
    figure.append(caption, tiles);
    return figure;
  }

  tile(tile, fold) {
    const [x, y] = tile.place, { tiles, slide, side } = tile;
    const button = element("button", "", { type: "button", title: `${slide}, tile at ${x}, ${y}` });
    const picture = element("img", "", { alt: "", loading: "lazy", width: 96, height: 96 });
    picture.addEventListener("error", () => picture.classList.add("none"));
    picture.src = `crop?${new URLSearchParams({ tiles, slide, x, y, side })}`;
    button.append(picture, element("b", number(tile.nearness)), element("span", slide));
    button.addEventListener("click", () => {
      $("gallery").close();
      this.jump(tile, $("gallery-model").value, fold);
    });
    return button;
  }
}

const percent = (share) => `${number(100 * share)}\u00a0%`;
