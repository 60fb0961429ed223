// The side panel: counts by status, filters, and the list of matching vehicles.
//
// The filter is the one truth about what is seen: the map and the list both ask `isVisible`.

import { quantity, write } from "./format.js";
import { STATUSES } from "./table.js";

const LIST_ROWS_MAX = 60;
const ALL_STATUSES = [...STATUSES, "unknown"];
// By code units: twenty thousand names are sorted in milliseconds, which no collator does.
const byName = (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
const collator = new Intl.Collator(undefined, { numeric: true });

export class FleetList {
  #table;
  #elements;
  #onSelect;
  #chips = new Map();
  #hidden = new Set();
  #company = "";
  #needle = "";
  #namesRevision = -1;
  #ordered = [];
  #items = [];
  #selectedKey = null;

  /** `onFilter()` is called when the filter changed, `onSelect(vehicle)` when a row of the list is chosen. */
  constructor(table, elements, { onFilter, onSelect }) {
    this.#table = table;
    this.#elements = elements;
    this.#onSelect = onSelect;
    for (const status of ALL_STATUSES) this.#addChip(status, onFilter);
    elements.search.addEventListener("input", () => {
      this.#needle = normalised(elements.search.value);
      onFilter();
    });
    elements.search.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      const first = this.#items.find(({ vehicle }) => vehicle);
      if (first) this.#onSelect(first.vehicle);
    });
    elements.company.addEventListener("change", () => {
      this.#company = elements.company.value;
      onFilter();
    });
  }

  isVisible = (vehicle) => !this.#hidden.has(vehicle.status) && this.#isInScope(vehicle);

  /** The vehicles that pass the filter, in the order of the list. */
  *visible() {
    for (const vehicle of this.#ordered) if (this.isVisible(vehicle)) yield vehicle;
  }

  setSelected(vehicle) {
    this.#selectedKey = vehicle?.key ?? null;
    for (const item of this.#items) this.#markItem(item);
  }

  refresh() {
    this.#refreshNames();
    const counts = Object.fromEntries(ALL_STATUSES.map((status) => [status, 0]));
    const shown = [];
    let visible = 0;
    for (const vehicle of this.#ordered) {
      if (!this.#isInScope(vehicle)) continue;
      counts[vehicle.status]++;
      if (this.#hidden.has(vehicle.status)) continue;
      if (visible++ < LIST_ROWS_MAX) shown.push(vehicle);
    }
    for (const [status, { chip, count }] of this.#chips) {
      write(count, quantity(counts[status]));
      if (status === "unknown") chip.hidden = counts.unknown === 0;
    }
    this.#refreshItems(shown);
    const { title, note } = this.#elements;
    write(title, `Vehicles (${quantity(visible)})`);
    const isCut = visible > LIST_ROWS_MAX;
    note.hidden = !isCut && visible > 0;
    write(note, isCut ? `The first ${LIST_ROWS_MAX} are listed. Search to find others.` : "No vehicle matches.");
  }

  #isInScope(vehicle) {
    const { row } = vehicle;
    if (this.#company !== "" && row.company_id !== this.#company) return false;
    if (this.#needle === "") return true;
    return normalised(row.plate ?? "").includes(this.#needle) || normalised(row.vehicle_id).includes(this.#needle);
  }

  #addChip(status, onFilter) {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.className = "chip";
    chip.dataset.status = status;
    chip.setAttribute("aria-pressed", "true");
    const count = document.createElement("b");
    chip.append(count, ` ${status}`);
    chip.addEventListener("click", () => {
      if (!this.#hidden.delete(status)) this.#hidden.add(status);
      chip.setAttribute("aria-pressed", String(!this.#hidden.has(status)));
      onFilter();
    });
    this.#elements.statuses.append(chip);
    this.#chips.set(status, { chip, count });
  }

  // Sorting and the list of companies cost too much for every delta; names rarely change.
  #refreshNames() {
    if (this.#namesRevision === this.#table.namesRevision) return;
    this.#namesRevision = this.#table.namesRevision;
    this.#ordered = [...this.#table.vehicles()].sort(byName);
    const names = new Map();
    for (const { row } of this.#ordered) {
      if (row.company_id) names.set(row.company_id, row.company_name || row.company_id);
    }
    const options = [["", `All companies (${quantity(names.size)})`]];
    options.push(...[...names].sort((a, b) => collator.compare(a[1], b[1])));
    // A company that is filtered by stays in the list even when its last vehicle left.
    if (this.#company !== "" && !names.has(this.#company)) options.push([this.#company, this.#company]);
    this.#elements.company.replaceChildren(...options.map(([value, label]) => new Option(label, value)));
    this.#elements.company.value = this.#company;
  }

  // List items are reused by position, so that the focus stays while their text changes.
  #refreshItems(vehicles) {
    while (this.#items.length < vehicles.length) this.#items.push(this.#makeItem());
    for (const item of this.#items.splice(vehicles.length)) item.root.remove();
    vehicles.forEach((vehicle, i) => {
      const item = this.#items[i];
      item.vehicle = vehicle;
      const { row, status } = vehicle;
      item.button.dataset.status = status;
      write(item.name, vehicle.name);
      write(item.detail, status === "moving" ? quantity(row.speed_kmh, "km/h") : status);
      write(item.company, row.company_name || row.company_id || "");
      this.#markItem(item);
    });
  }

  #makeItem() {
    const [root, button, name, detail, company] = ["li", "button", "b", "span", "small"].map((tag) =>
      document.createElement(tag),
    );
    button.type = "button";
    button.append(name, detail, company);
    root.append(button);
    const item = { root, button, name, detail, company, vehicle: null };
    button.addEventListener("click", () => this.#onSelect(item.vehicle));
    this.#elements.list.append(root);
    return item;
  }

  #markItem({ button, vehicle }) {
    const isSelected = vehicle !== null && vehicle.key === this.#selectedKey;
    if (isSelected) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

/** Plates are written with and without blanks and dashes; the search takes them as the same. */
const normalised = (value) => value.toLowerCase().replace(/[\s-]/g, "");
