// Turns the shipped TopoJSON (basemap.json) into the GeoJSON that the map draws.
//
// The rings of world-atlas are stitched over the antimeridian; here each ring is unrolled, so its
// longitudes may leave ±180° but never jump. A ring around the pole is closed along the map's edge.

/** The latitude at which a ring around the south pole is closed. */
const POLE_LATITUDE = -90;
/** What lies wholly south of this is not on a Mercator map. */
const MAP_LATITUDE_MIN = -85.06;

/** All arcs as lists of [lon, lat] in degrees, unrolled within each arc. */
export function decodeArcs({ arcs, transform }) {
  const { scale, translate } = transform;
  return arcs.map((arc) => {
    let x = 0;
    let y = 0;
    const points = arc.map(([dx, dy]) => {
      x += dx;
      y += dy;
      return [x * scale[0] + translate[0], y * scale[1] + translate[1]];
    });
    return unrolled(points);
  });
}

function unrolled(points) {
  let shift = 0;
  let previous = points[0][0];
  return points.map(([lon, lat]) => {
    if (lon - previous > 180) shift -= 360;
    else if (lon - previous < -180) shift += 360;
    previous = lon;
    return [lon + shift, lat];
  });
}

/** One closed ring from its arc numbers; `~n` stands for arc n backwards. */
export function ringOf(arcs, numbers) {
  const points = [];
  for (const number of numbers) {
    const arc = number < 0 ? arcs[~number].slice().reverse() : arcs[number];
    for (let i = points.length ? 1 : 0; i < arc.length; i++) points.push(arc[i]);
  }
  const ring = unrolled(points);
  const first = ring[0];
  const last = ring[ring.length - 1];
  if (Math.abs(last[0] - first[0]) > 180) {
    ring.push([last[0], POLE_LATITUDE], [first[0], POLE_LATITUDE], first);
  }
  const worlds = Math.round((first[0] + last[0]) / 720);
  return worlds === 0 ? ring : ring.map(([lon, lat]) => [lon - worlds * 360, lat]);
}

// The stitched Antarctica has a tiny ring around the pole itself as its outer ring, with the coast as a hole in it.
// Without that ring the coast is the outer one, as a flat map needs it.
const isOnMap = (ring) => ring.some(([, lat]) => lat > MAP_LATITUDE_MIN);

function feature(type, coordinates, properties = {}) {
  return { type: "Feature", properties, geometry: { type, coordinates } };
}

/** GeoJSON for the map's layers: land polygons, coast lines, country borders and country names. */
export function decodeBasemap(topology) {
  const arcs = decodeArcs(topology);
  const uses = new Uint8Array(arcs.length);
  const land = [];
  for (const geometry of topology.objects.countries.geometries) {
    const polygons = geometry.type === "Polygon" ? [geometry.arcs] : geometry.arcs;
    for (const rings of polygons) {
      for (const number of rings.flat()) uses[number < 0 ? ~number : number]++;
      land.push(feature("Polygon", rings.map((numbers) => ringOf(arcs, numbers)).filter(isOnMap)));
    }
  }
  const coasts = arcs.filter((_, number) => uses[number] === 1);
  const borders = arcs.filter((_, number) => uses[number] > 1);
  const { scale, translate } = topology.transform;
  const labels = topology.objects.labels.geometries.map(({ coordinates: [x, y], properties }) =>
    feature("Point", [x * scale[0] + translate[0], y * scale[1] + translate[1]], properties),
  );
  const collection = (features) => ({ type: "FeatureCollection", features });
  return {
    land: collection(land),
    lines: collection([
      feature("MultiLineString", coasts, { kind: "coast" }),
      feature("MultiLineString", borders, { kind: "border" }),
    ]),
    labels: collection(labels),
  };
}

/** Meridians and parallels every `step` degrees inside the bounds; each line carries its `name`. */
export function graticule([west, south, east, north], step) {
  const lines = [];
  const digits = Math.max(0, Math.ceil(-Math.log10(step)));
  const named = (degrees, positive, negative) => {
    const size = Math.abs(degrees).toFixed(digits);
    return Number(size) === 0 ? "0°" : `${size}° ${degrees < 0 ? negative : positive}`;
  };
  for (let n = Math.ceil(west / step); n * step <= east; n++) {
    const lon = n * step;
    const name = named(lon - 360 * Math.round(lon / 360), "E", "W");
    lines.push(feature("LineString", [[lon, south], [lon, north]], { name }));
  }
  for (let n = Math.ceil(south / step); n * step <= north; n++) {
    const lat = n * step;
    lines.push(feature("LineString", [[west, lat], [east, lat]], { name: named(lat, "N", "S") }));
  }
  return { type: "FeatureCollection", features: lines };
}
