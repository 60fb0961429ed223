// Makes basemap.json from the npm package `world-atlas` (Natural Earth 1:50m, public domain).
// Run at authoring time only, see README.md; the server does not ship this file.
//
//   node make-basemap.mjs path/to/world-atlas/countries-50m.json basemap.json
//
// The result is TopoJSON with two objects: `countries` (polygons over shared arcs) and
// `labels` (one point per country, well inside its largest polygon, with `rank` 0..5: the larger
// the country the smaller the rank, so that small countries are named only when zoomed in).

import { readFileSync, writeFileSync } from "node:fs";
import { decodeArcs, ringOf } from "./basemap.js";

const [input, output] = process.argv.slice(2);
if (!input || !output) {
  console.error("usage: node make-basemap.mjs countries-50m.json basemap.json");
  process.exit(2);
}

/** Areas in square degrees, shrunk by latitude, at which the rank grows by one. */
const RANK_AREAS = [250, 60, 20, 5, 0.6];
const GRID_STEPS = 48;

/** How many of the package's steps of latitude (0.0017°) make one of ours: about 400 m, as in longitude. */
const LATITUDE_STEPS = 2;
const TOLERANCE_STEPS = 1.2;
/** Arcs this short stay as they are, so that an islet stays a ring. */
const ISLET_POINTS = 9;

const topology = coarser(JSON.parse(readFileSync(input, "utf8")));
const arcs = decodeArcs(topology);
const { scale, translate } = topology.transform;

/** The topology with its latitudes rounded and the points dropped that lie on the line of their neighbours. */
function coarser(source) {
  const { scale, translate } = source.transform;
  return {
    ...source,
    transform: { scale: [scale[0], scale[1] * LATITUDE_STEPS], translate },
    arcs: source.arcs.map((arc) => {
      let [x, y] = [0, 0];
      const points = arc.map(([dx, dy]) => {
        x += dx;
        y += dy;
        return [x, Math.round(y / LATITUDE_STEPS)];
      });
      const kept = points.length > ISLET_POINTS ? straightened(points) : points;
      return kept.map(([px, py], i) =>
        i === 0 ? [px, py] : [px - kept[i - 1][0], py - kept[i - 1][1]],
      );
    }),
  };
}

/** Douglas-Peucker with a tolerance in steps of the grid; the ends, which arcs share, stay. */
function straightened(points) {
  if (points.length < 3) return points;
  const last = points.length - 1;
  const [[ax, ay], [bx, by]] = [points[0], points[last]];
  const length = Math.hypot(bx - ax, by - ay);
  let farthest = { distance: TOLERANCE_STEPS, index: -1 };
  for (let i = 1; i < last; i++) {
    const [x, y] = points[i];
    const distance = length
      ? Math.abs((x - ax) * (by - ay) - (y - ay) * (bx - ax)) / length
      : Math.hypot(x - ax, y - ay);
    if (distance > farthest.distance) farthest = { distance, index: i };
  }
  if (farthest.index < 0) return [points[0], points[last]];
  return [
    ...straightened(points.slice(0, farthest.index + 1)),
    ...straightened(points.slice(farthest.index)).slice(1),
  ];
}

/** Area of a ring in square degrees, each degree of longitude shrunk to its width at the ring's latitude. */
function areaOf(ring) {
  let sum = 0;
  for (let i = 1; i < ring.length; i++) {
    const shrink = Math.cos((((ring[i][1] + ring[i - 1][1]) / 2) * Math.PI) / 180);
    sum += (ring[i - 1][0] * ring[i][1] - ring[i][0] * ring[i - 1][1]) * shrink;
  }
  return Math.abs(sum / 2);
}

function contains(ring, x, y) {
  let inside = false;
  for (let i = 1; i < ring.length; i++) {
    const [ax, ay] = ring[i - 1];
    const [bx, by] = ring[i];
    if (ay > y !== by > y && x < ax + ((y - ay) / (by - ay)) * (bx - ax)) inside = !inside;
  }
  return inside;
}

function distanceToEdge(ring, x, y, shrink) {
  let best = Infinity;
  for (let i = 1; i < ring.length; i++) {
    const [ax, ay] = ring[i - 1];
    const dx = (ring[i][0] - ax) * shrink;
    const dy = ring[i][1] - ay;
    const px = (x - ax) * shrink;
    const py = y - ay;
    const t = Math.max(0, Math.min(1, (px * dx + py * dy) / (dx * dx + dy * dy || 1)));
    best = Math.min(best, Math.hypot(px - t * dx, py - t * dy));
  }
  return best;
}

/** The grid point deepest inside the ring: a name written there is least likely to leave it. */
function deepestPoint(ring) {
  const xs = ring.map((p) => p[0]);
  const ys = ring.map((p) => p[1]);
  const [west, east, south, north] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const shrink = Math.cos((((south + north) / 2) * Math.PI) / 180);
  let best = { depth: -1, point: ring[0] };
  for (let i = 1; i < GRID_STEPS; i++) {
    for (let j = 1; j < GRID_STEPS; j++) {
      const x = west + ((east - west) * i) / GRID_STEPS;
      const y = south + ((north - south) * j) / GRID_STEPS;
      if (!contains(ring, x, y)) continue;
      const depth = distanceToEdge(ring, x, y, shrink);
      if (depth > best.depth) best = { depth, point: [x, y] };
    }
  }
  return best.point;
}

function labelOf(geometry) {
  const polygons = geometry.type === "Polygon" ? [geometry.arcs] : geometry.arcs;
  let largest = null;
  let total = 0;
  for (const [outer] of polygons) {
    const ring = ringOf(arcs, outer);
    const area = areaOf(ring);
    total += area;
    if (!largest || area > largest.area) largest = { area, ring };
  }
  const [lon, lat] = geometry.properties.name === "Antarctica" ? [20, -80] : deepestPoint(largest.ring);
  const wrapped = ((((lon + 180) % 360) + 360) % 360) - 180;
  const rank = RANK_AREAS.findIndex((area) => total >= area);
  return {
    type: "Point",
    coordinates: [Math.round((wrapped - translate[0]) / scale[0]), Math.round((lat - translate[1]) / scale[1])],
    properties: { name: geometry.properties.name, rank: rank < 0 ? RANK_AREAS.length : rank },
  };
}

const countries = topology.objects.countries.geometries.filter((g) => g.type?.endsWith("Polygon"));
const result = {
  type: "Topology",
  transform: topology.transform,
  objects: {
    countries: {
      type: "GeometryCollection",
      geometries: countries.map(({ type, arcs }) => ({ type, arcs })),
    },
    labels: { type: "GeometryCollection", geometries: countries.map(labelOf) },
  },
  arcs: topology.arcs,
};
writeFileSync(output, JSON.stringify(result));
console.log(`${output}: ${countries.length} countries, ${topology.arcs.length} arcs`);
