// The map: base map, vehicles (clustered at low zoom), the trail and mark of the chosen one.
//
// The map holds no state of its own about vehicles: it is told which changed and which are to be seen, and
// sends to the drawing worker only what looks different from what it sent before.

import { LngLatBounds, Map as MapLibreMap, NavigationControl, ScaleControl } from "./vendor/maplibre-gl.mjs";
import { decodeBasemap, graticule } from "./basemap.js";
import { layersOf, readPalette, setSigns } from "./layers.js";

const CLUSTER_MAX_ZOOM = 8;
const CLUSTER_RADIUS_PX = 42;
const CLUSTER_VEHICLES_MIN = 4;
/** One hand-over to the drawing worker per this time at most. */
const FLUSH_MS_MIN = 250;
const DRAW_MS_MAX = 2_000;
const DRAW_POLL_MS = 50;
/** How far from a sign a click or a finger may land. */
const CLICK_TOLERANCE_PX = 9;
const FIT_ZOOM_MAX = 13;
const FIT_MS = 900;
const SELECT_ZOOM_MIN = 11;
const GRID_LINES_AIMED = 6;
/** Beyond this latitude the map (Mercator) has nothing to show. */
const LATITUDE_MAX = 85;

const CLICKABLE_LAYERS = ["vehicles", "clusters"];

const emptyCollection = () => ({ type: "FeatureCollection", features: [] });
const point = (lon, lat) => ({ type: "Point", coordinates: [lon, lat] });
const isDrawable = (vehicle) => vehicle.hasPosition && Math.abs(vehicle.row.lat) <= LATITUDE_MAX;

function featureOf(vehicle) {
  const { lon, lat, heading_deg: heading } = vehicle.row;
  const { status } = vehicle;
  const sign = status === "moving" && heading === null ? "headless" : status;
  return {
    type: "Feature",
    id: vehicle.key,
    geometry: point(lon, lat),
    properties: { status, sign, heading: sign === "moving" ? heading : 0, name: vehicle.name },
  };
}

const looksOf = ({ geometry: { coordinates }, properties }) =>
  `${coordinates[0]} ${coordinates[1]} ${properties.status} ${properties.sign} ${properties.heading} ${properties.name}`;

export class FleetMap {
  #map;
  #ready = false;
  /** What the worker was last sent, per vehicle key. */
  #sent = new Map();
  #pending = new Map();
  #flushTimer = null;
  #flushing = false;
  #selected = null;
  #onSelect;

  /**
   * `onSelect(key)` is called with a vehicle's key when it is clicked, with null when the empty map is;
   * `onDrawn()` once, when the first vehicles can be seen.
   */
  constructor(container, { onSelect, onDrawn }) {
    this.#onSelect = onSelect;
    const isVehicle = (status) => ["+", ["case", ["==", ["get", "status"], status], 1, 0]];
    const points = (data, options = {}) => ({ type: "geojson", data, ...options });
    this.#map = new MapLibreMap({
      container,
      style: {
        version: 8,
        sources: {
          land: points(emptyCollection(), { maxzoom: 7, tolerance: 0.3 }),
          lines: points(emptyCollection(), { maxzoom: 7, tolerance: 0.3 }),
          labels: points(emptyCollection(), { maxzoom: 7 }),
          grid: points(emptyCollection(), { maxzoom: 14, tolerance: 0 }),
          trail: points(emptyCollection(), { tolerance: 0 }),
          selection: points(emptyCollection()),
          vehicles: points(emptyCollection(), {
            cluster: true, clusterMaxZoom: CLUSTER_MAX_ZOOM, clusterRadius: CLUSTER_RADIUS_PX,
            clusterMinPoints: CLUSTER_VEHICLES_MIN, maxzoom: 14,
            clusterProperties: {
              moving: isVehicle("moving"), idle: isVehicle("idle"),
              parked: isVehicle("parked"), offline: isVehicle("offline"),
            },
          }),
        },
        layers: layersOf(readPalette()),
      },
      center: [10, 30], zoom: 1.4, minZoom: 0.5, maxZoom: 18,
      attributionControl: { compact: true, customAttribution: "Natural Earth" },
      dragRotate: false, pitchWithRotate: false, touchPitch: false, maxPitch: 0,
      fadeDuration: 0, locale: { "Map.Title": "Map of the vehicles. Arrow keys pan, plus and minus zoom." },
    });
    this.#map.touchZoomRotate.disableRotation();
    this.#map.keyboard.disableRotation();
    this.#map.addControl(new NavigationControl({ showCompass: false }), "bottom-right");
    this.#map.addControl(new ScaleControl({ maxWidth: 110 }), "bottom-right");
    this.#map.on("style.load", () => this.#begin());
    this.#map.on("moveend", () => this.#drawGrid());
    const checkDrawn = () => {
      if (this.#sent.size === 0 || this.#map.queryRenderedFeatures({ layers: CLICKABLE_LAYERS }).length === 0) return;
      this.#map.off("render", checkDrawn);
      onDrawn();
    };
    this.#map.on("render", checkDrawn);
    this.#map.on("click", (event) => this.#click(event.point));
    this.#map.on("mousemove", (event) => {
      this.#map.getCanvas().style.cursor = this.#nearest(event.point) ? "pointer" : "";
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#repaint());
  }

  /** Draws the base map from its TopoJSON. */
  setBasemap(topology) {
    const basemap = decodeBasemap(topology);
    this.#whenReady(() => {
      for (const [name, data] of Object.entries(basemap)) this.#map.getSource(name).setData(data);
    });
  }

  /** Tells the map of vehicles that may look different now; `isVisible(vehicle)` is the current filter. */
  update(vehicles, removed, isVisible) {
    for (const vehicle of removed) this.#pending.set(vehicle.key, null);
    for (const vehicle of vehicles) {
      this.#pending.set(vehicle.key, isVisible(vehicle) && isDrawable(vehicle) ? vehicle : null);
    }
    if (this.#selected) this.#drawSelection();
    this.#scheduleFlush();
  }

  /** Marks one vehicle and shows its trail; null marks none. */
  select(vehicle) {
    this.#selected = vehicle;
    this.#drawSelection();
  }

  /** Moves the map to a vehicle, closer when it would still be inside a cluster. */
  flyTo(vehicle, padding) {
    if (!isDrawable(vehicle)) return;
    const { lon, lat } = vehicle.row;
    this.#map.easeTo({ center: [lon, lat], zoom: Math.max(this.#map.getZoom(), SELECT_ZOOM_MIN), offset: middleOf(padding) });
  }

  /** Keeps a followed vehicle in the middle. */
  follow(vehicle, padding) {
    if (!isDrawable(vehicle)) return;
    this.#map.easeTo({ center: [vehicle.row.lon, vehicle.row.lat], offset: middleOf(padding), duration: 400 });
  }

  /** Shows all of these vehicles at once; `padding` in pixels keeps them clear of the panels. */
  fit(vehicles, padding, animate) {
    const bounds = new LngLatBounds();
    for (const vehicle of vehicles) if (isDrawable(vehicle)) bounds.extend([vehicle.row.lon, vehicle.row.lat]);
    if (!bounds.isEmpty()) this.#map.fitBounds(bounds, { padding, maxZoom: FIT_ZOOM_MAX, animate, duration: FIT_MS });
  }

  #begin() {
    setSigns(this.#map, readPalette());
    this.#ready = true;
    this.#drawGrid();
    this.#drawSelection();
    this.#scheduleFlush();
  }

  #whenReady(action) {
    if (this.#ready) action();
    else this.#map.once("style.load", action);
  }

  #scheduleFlush() {
    if (!this.#ready || this.#flushing || this.#flushTimer !== null || this.#pending.size === 0) return;
    this.#flushTimer = setTimeout(() => this.#flush(), this.#sent.size === 0 ? 0 : FLUSH_MS_MIN);
  }

  // On a slow machine new data must not come faster than it is drawn; but it is never held back for long.
  async #drawn() {
    const until = Date.now() + DRAW_MS_MAX;
    while (Date.now() < until && !this.#map.isSourceLoaded("vehicles")) {
      await new Promise((resolve) => setTimeout(resolve, DRAW_POLL_MS));
    }
  }

  // One hand-over at a time: while the worker is busy, later changes gather in #pending, one per vehicle.
  async #flush() {
    this.#flushTimer = null;
    const add = [];
    const remove = [];
    for (const [key, vehicle] of this.#pending) {
      if (vehicle === null) {
        if (this.#sent.delete(key)) remove.push(key);
        continue;
      }
      const feature = featureOf(vehicle);
      const looks = looksOf(feature);
      if (this.#sent.get(key) === looks) continue;
      this.#sent.set(key, looks);
      add.push(feature);
    }
    this.#pending.clear();
    if (add.length === 0 && remove.length === 0) return;
    this.#flushing = true;
    try {
      await this.#map.getSource("vehicles").updateData({ add, remove });
      await this.#drawn();
    } finally {
      this.#flushing = false;
      this.#scheduleFlush();
    }
  }

  #drawSelection() {
    if (!this.#ready) return;
    const vehicle = this.#selected;
    const features = { selection: [], trail: [] };
    if (vehicle && isDrawable(vehicle)) {
      const { lon, lat } = vehicle.row;
      features.selection.push({ type: "Feature", properties: {}, geometry: point(lon, lat) });
      const coordinates = [...vehicle.trail.coordinates(), [lon, lat]];
      if (coordinates.length > 2) {
        features.trail.push({ type: "Feature", properties: {}, geometry: { type: "LineString", coordinates } });
      }
    }
    for (const [name, list] of Object.entries(features)) {
      this.#map.getSource(name).setData({ type: "FeatureCollection", features: list });
    }
  }

  #drawGrid() {
    if (!this.#ready) return;
    const bounds = this.#map.getBounds();
    let [west, east] = [bounds.getWest(), bounds.getEast()];
    const step = gridStep(Math.max(east - west, 0.001) / GRID_LINES_AIMED);
    // A wider view repeats the world by itself.
    if (east - west > 360 - 2 * step) [west, east] = [-180, 180];
    else [west, east] = [west - step, east + step];
    const south = Math.max(bounds.getSouth() - step, -LATITUDE_MAX);
    const north = Math.min(bounds.getNorth() + step, LATITUDE_MAX);
    const lines = graticule([west, south, east, north], step);
    this.#map.getSource("grid").setData(lines);
  }

  #repaint() {
    this.#whenReady(() => {
      const palette = readPalette();
      setSigns(this.#map, palette);
      for (const { id, paint } of layersOf(palette)) {
        for (const [name, value] of Object.entries(paint)) this.#map.setPaintProperty(id, name, value);
      }
    });
  }

  /** The vehicle or cluster nearest to a point of the screen, if any is close enough. */
  #nearest({ x, y }) {
    if (!this.#ready) return null;
    const box = [
      [x - CLICK_TOLERANCE_PX, y - CLICK_TOLERANCE_PX],
      [x + CLICK_TOLERANCE_PX, y + CLICK_TOLERANCE_PX],
    ];
    let best = null;
    for (const feature of this.#map.queryRenderedFeatures(box, { layers: CLICKABLE_LAYERS })) {
      const at = this.#map.project(feature.geometry.coordinates);
      const distance = Math.hypot(at.x - x, at.y - y);
      if (!best || distance < best.distance) best = { distance, feature };
    }
    return best?.feature ?? null;
  }

  async #expansionZoom(clusterId) {
    try {
      return (await this.#map.getSource("vehicles").getClusterExpansionZoom(clusterId)) + 0.5;
    } catch {
      // Clusters are numbered anew with every delta; this one may just have ended.
      return this.#map.getZoom() + 2;
    }
  }

  async #click(screenPoint) {
    const feature = this.#nearest(screenPoint);
    if (!feature) {
      this.#onSelect(null);
    } else if (feature.layer.id === "vehicles") {
      this.#onSelect(feature.id);
    } else {
      const zoom = await this.#expansionZoom(feature.properties.cluster_id);
      this.#map.easeTo({ center: feature.geometry.coordinates, zoom });
    }
  }
}

/** Where the middle of the part of the map not covered by panels is, from the map's own middle. */
const middleOf = ({ left, right, top, bottom }) => [(left - right) / 2, (top - bottom) / 2];

/** The roundest step (1, 2, 5 times a power of ten, in degrees) not below `aimed`. */
function gridStep(aimed) {
  const power = 10 ** Math.floor(Math.log10(aimed));
  const factor = [1, 2, 5, 10].find((candidate) => candidate * power >= aimed);
  return Math.min(factor * power, 30);
}
