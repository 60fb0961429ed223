// The card of the chosen vehicle: every field of its row, kept up to date while it is open.
//
// The elements are made once; an update only changes their text, so focus and scrolling stay put.

import { heading, position, quantity, span, text, time, yesNo, write } from "./format.js";

const GROUPS = [
  ["Now", [
    ["Speed", (row) => quantity(row.speed_kmh, "km/h", 1)],
    ["Heading", (row) => heading(row.heading_deg)],
    ["Position", position],
    ["Altitude", (row) => quantity(row.altitude_m, "m")],
    ["Satellites", (row) => quantity(row.satellites)],
    ["Device time", (row) => time(row.ts)],
  ]],
  ["Vehicle", [
    ["Ignition", (row) => yesNo(row.ignition, "on", "off")],
    ["Fuel", (row) => quantity(row.fuel_level_pct, "%", 1)],
    ["Engine", (row) => quantity(row.engine_temp_c, "°C", 1)],
    ["Odometer", (row) => quantity(row.odometer_km, "km", 1)],
    ["Battery", (row) => quantity(row.battery_v, "V", 2)],
    ["Model", (row) => text(row.model)],
  ]],
  ["Assignment", [
    ["Company", (row) => named(row.company_name, row.company_id)],
    ["Driver", (row) => named(row.driver_name, row.driver_id)],
    ["Tariff", (row) => named(row.tariff_name, row.tariff_id)],
    ["Vehicle id", (row) => text(row.vehicle_id)],
    ["Device id", (row) => text(row.device_id)],
    ["Version", (row) => String(row.version)],
  ]],
];

const named = (name, id) => (name && id && name !== id ? `${name} (${id})` : text(name || id));

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export class Card {
  #root;
  #title = element("h2", { id: "card-title" });
  #status = element("span", { className: "pill" });
  #offline = element("p", { className: "offline-note" });
  #trail = element("p", { className: "note" });
  #follow = element("button", { type: "button", className: "plain", textContent: "Follow" });
  #values = [];
  #vehicle = null;

  /** `onClose()` is called when the user closes the card. */
  constructor(root, onClose) {
    this.#root = root;
    const close = element("button", { type: "button", className: "plain close", textContent: "Close" });
    close.addEventListener("click", onClose);
    this.#follow.setAttribute("aria-pressed", "false");
    this.#follow.addEventListener("click", () => this.#setFollow(!this.isFollowing));
    const head = element("header", {}, this.#title, this.#status, this.#follow, close);
    const body = element("div", { className: "card-body" }, this.#offline);
    for (const [name, fields] of GROUPS) {
      const list = element("dl");
      for (const [label, format] of fields) {
        const value = element("dd");
        this.#values.push({ value, format });
        list.append(element("div", {}, element("dt", { textContent: label }), value));
      }
      body.append(element("h3", { textContent: name }), list);
    }
    body.append(this.#trail);
    root.append(head, body);
  }

  get vehicle() {
    return this.#vehicle;
  }

  get isFollowing() {
    return this.#follow.getAttribute("aria-pressed") === "true";
  }

  show(vehicle) {
    this.#vehicle = vehicle;
    this.#setFollow(false);
    this.#root.hidden = false;
    this.#root.querySelector(".card-body").scrollTop = 0;
    this.refresh();
  }

  hide() {
    this.#vehicle = null;
    this.#root.hidden = true;
  }

  focus() {
    this.#root.focus({ preventScroll: true });
  }

  /** Writes the current values; cheap enough to be called for every delta and every second. */
  refresh() {
    const vehicle = this.#vehicle;
    if (!vehicle) return;
    const { row, status } = vehicle;
    write(this.#title, vehicle.name);
    write(this.#status, status);
    this.#status.dataset.status = status;
    this.#root.dataset.status = status;
    this.#offline.hidden = status !== "offline";
    const since = row.offline_since;
    write(
      this.#offline,
      since === null ? "Offline: this is its last known state." : `Offline for ${span(Date.now() - since)}, since ${time(since)}. This is its last known state.`,
    );
    for (const { value, format } of this.#values) write(value, format(row));
    const { length } = vehicle.trail;
    write(this.#trail, length > 1 ? `The line on the map joins its last ${length} positions since this page was opened.` : "");
  }

  #setFollow(isOn) {
    this.#follow.setAttribute("aria-pressed", String(isOn));
  }
}
