// The vehicles as the page knows them: rows by vehicle id, built from a snapshot and its deltas.
//
// A row never goes back: what carries an older version than the row held is ignored. Everything that
// comes from the server is checked field by field before it is kept; nothing is trusted to have its type.

import { printable } from "./format.js";
import { Trail } from "./trail.js";

/** The fields that are kept, and what each has to be. Other fields of a row are dropped. */
const FIELD_KINDS = new Map(
  Object.entries({
    device_id: "text", plate: "text", model: "text",
    company_id: "text", company_name: "text", driver_id: "text", driver_name: "text",
    tariff_id: "text", tariff_name: "text", status: "text",
    ts: "number", lat: "number", lon: "number", speed_kmh: "number", heading_deg: "number",
    altitude_m: "number", satellites: "number", ignition: "boolean", fuel_level_pct: "number",
    engine_temp_c: "number", odometer_km: "number", battery_v: "number", offline_since: "number",
  }),
);

const ROWS_MAX = 200_000;
const TEXT_CHARS_MAX = 200;
/** A device clock this far ahead is broken and does not count as the newest data. */
const CLOCK_AHEAD_MS_MAX = 60_000;

export const STATUSES = ["moving", "idle", "parked", "offline"];

function checked(kind, value) {
  if (value === null || value === undefined) return null;
  if (kind === "text") {
    if (typeof value === "number") return String(value);
    return typeof value === "string" ? printable(value, TEXT_CHARS_MAX) : null;
  }
  if (kind === "number") return Number.isFinite(value) ? value : null;
  return typeof value === "boolean" ? value : null;
}

const isPosition = ({ lon, lat }) =>
  lon !== null && lat !== null && Math.abs(lon) <= 180 && Math.abs(lat) <= 90;

/** One vehicle: its row, and what this page has seen of it since it was opened. */
class Vehicle {
  constructor(key, id) {
    /** A small whole number, unique within this page: the map wants those for its features. */
    this.key = key;
    this.row = { vehicle_id: id, version: -1 };
    for (const field of FIELD_KINDS.keys()) this.row[field] = null;
    this.trail = new Trail();
    this.origin = null;
    this.moved = false;
    this.seenInSnapshot = false;
  }

  get hasPosition() {
    return isPosition(this.row);
  }

  /** One of STATUSES, or "unknown". */
  get status() {
    return STATUSES.includes(this.row.status) ? this.row.status : "unknown";
  }

  /** What people call it: the plate, without one its id. */
  get name() {
    return this.row.plate || this.row.vehicle_id;
  }
}

/** All rows. `takeChanges` hands over what changed since it was last called. */
export class VehicleTable {
  #vehicles = new Map();
  #byKey = new Map();
  #changed = new Set();
  #removed = new Set();
  #nextKey = 1;
  #inSnapshot = false;
  #reportedRefusals = new Set();
  movedCount = 0;
  newestTs = null;
  /** Grows whenever a vehicle, a name or a company came, went or changed: the order of lists is stale then. */
  namesRevision = 0;

  get size() {
    return this.#vehicles.size;
  }

  vehicles() {
    return this.#vehicles.values();
  }

  byKey(key) {
    return this.#byKey.get(key);
  }

  /** Rows of one `snapshot` message; the last one (`more` false) drops the rows that none of them held. */
  applySnapshot(rows, more) {
    if (!this.#inSnapshot) {
      this.#inSnapshot = true;
      for (const vehicle of this.#vehicles.values()) vehicle.seenInSnapshot = false;
    }
    for (const row of rows) {
      const vehicle = this.#upsert(row, true);
      if (vehicle) vehicle.seenInSnapshot = true;
    }
    if (more) return;
    this.#inSnapshot = false;
    for (const vehicle of [...this.#vehicles.values()]) {
      if (!vehicle.seenInSnapshot) this.#remove(vehicle);
    }
  }

  /** A snapshot that broke off half-way is forgotten; its rows stay, they are true. */
  abandonSnapshot() {
    this.#inSnapshot = false;
  }

  applyDelta(upserts, removedIds) {
    for (const row of upserts) {
      const vehicle = this.#upsert(row, false);
      if (vehicle) vehicle.seenInSnapshot = true;
    }
    for (const id of removedIds) {
      const vehicle = this.#vehicles.get(checked("text", id));
      if (vehicle) this.#remove(vehicle);
    }
  }

  takeChanges() {
    const changes = { changed: this.#changed, removed: this.#removed };
    this.#changed = new Set();
    this.#removed = new Set();
    return changes;
  }

  #upsert(source, isWhole) {
    const id = checked("text", source?.vehicle_id);
    const version = source?.version;
    if (!id) return this.#refuse("a row without vehicle_id");
    if (!Number.isSafeInteger(version)) return this.#refuse("a row without a whole number as version");
    let vehicle = this.#vehicles.get(id);
    if (!vehicle) {
      if (this.#vehicles.size >= ROWS_MAX) return this.#refuse(`more than ${ROWS_MAX} rows`);
      vehicle = new Vehicle(this.#nextKey++, id);
      this.#vehicles.set(id, vehicle);
      this.#byKey.set(vehicle.key, vehicle);
      this.namesRevision++;
    }
    if (version >= vehicle.row.version) this.#write(vehicle, source, version, isWhole);
    return vehicle;
  }

  #write(vehicle, source, version, isWhole) {
    const { row } = vehicle;
    const { plate, company_id: company, company_name: companyName } = row;
    for (const [field, kind] of FIELD_KINDS) {
      if (isWhole || Object.hasOwn(source, field)) row[field] = checked(kind, source[field]);
    }
    row.version = version;
    if (row.plate !== plate || row.company_id !== company || row.company_name !== companyName) {
      this.namesRevision++;
    }
    if (vehicle.hasPosition) this.#notePosition(vehicle);
    if (row.ts !== null && row.ts > (this.newestTs ?? 0) && row.ts <= Date.now() + CLOCK_AHEAD_MS_MAX) {
      this.newestTs = row.ts;
    }
    this.#changed.add(vehicle);
  }

  #notePosition(vehicle) {
    const { lon, lat } = vehicle.row;
    vehicle.origin ??= [lon, lat];
    if (!vehicle.moved && (vehicle.origin[0] !== lon || vehicle.origin[1] !== lat)) {
      vehicle.moved = true;
      this.movedCount++;
    }
    vehicle.trail.push(lon, lat);
  }

  #remove(vehicle) {
    this.#vehicles.delete(vehicle.row.vehicle_id);
    this.#byKey.delete(vehicle.key);
    this.#changed.delete(vehicle);
    this.#removed.add(vehicle);
    if (vehicle.moved) this.movedCount--;
    this.namesRevision++;
  }

  #refuse(what) {
    if (!this.#reportedRefusals.has(what)) {
      this.#reportedRefusals.add(what);
      console.warn(`vehicle_state: the server sent ${what}; such rows are ignored`);
    }
    return null;
  }
}
