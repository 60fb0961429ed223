// What the map looks like: its layers and the signs of the vehicles, in the colours of the style sheet.
//
// Colours live in style.css only; the dark and the light map differ in nothing but the palette read from it.

const FONT = ["sans-serif"];
const PALETTE_NAMES = [
  "ocean", "land", "coast", "border", "grid", "label", "halo", "ink", "paper",
  "moving", "idle", "parked", "offline", "unknown", "trail", "select", "cluster",
];

/** Side of a vehicle's sign in CSS pixels, and how many image pixels make one of them. */
const SIGN_PX = 26;
const SIGN_RATIO = 2;
const PLATES_FROM_ZOOM = 11;

/** The current colours by name, from the custom properties of the document. */
export function readPalette() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(PALETTE_NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** All layers from the bottom up. The sources are named in map.js. */
export function layersOf(palette) {
  const text = (size) => ({ "text-font": FONT, "text-size": size });
  const halo = { "text-color": palette.label, "text-halo-color": palette.halo, "text-halo-width": 1.5 };
  const majority = (status) => [
    "all",
    ...["moving", "idle", "parked", "offline"].filter((other) => other !== status).map((other) => [">=", ["get", status], ["get", other]]),
  ];
  return [
    { id: "ocean", type: "background", paint: { "background-color": palette.ocean } },
    { id: "land", type: "fill", source: "land", paint: { "fill-color": palette.land, "fill-antialias": false } },
    { id: "grid", type: "line", source: "grid", paint: { "line-color": palette.grid, "line-width": 1 } },
    {
      id: "grid-names", type: "symbol", source: "grid",
      layout: {
        ...text(10), "text-field": ["get", "name"],
        "symbol-placement": "line", "symbol-spacing": 420, "text-padding": 30,
      },
      paint: { ...halo, "text-opacity": 0.7, "text-halo-color": palette.land },
    },
    {
      id: "coasts", type: "line", source: "lines", filter: ["==", ["get", "kind"], "coast"],
      layout: { "line-join": "round" },
      paint: { "line-color": palette.coast, "line-width": 1 },
    },
    {
      id: "borders", type: "line", source: "lines", filter: ["==", ["get", "kind"], "border"],
      layout: { "line-join": "round" },
      paint: { "line-color": palette.border, "line-width": ["interpolate", ["linear"], ["zoom"], 2, 0.6, 8, 1.6] },
    },
    {
      id: "countries", type: "symbol", source: "labels",
      filter: ["<=", ["get", "rank"], ["+", ["zoom"], -1]],
      layout: {
        ...text(["interpolate", ["linear"], ["zoom"], 2, 10, 7, 15]),
        "text-field": ["get", "name"], "text-max-width": 7, "text-letter-spacing": 0.06,
        "symbol-sort-key": ["get", "rank"],
      },
      paint: halo,
    },
    {
      id: "trail", type: "line", source: "trail",
      layout: { "line-join": "round", "line-cap": "round" },
      paint: { "line-color": palette.trail, "line-width": 3.5, "line-opacity": 0.85 },
    },
    {
      id: "selection", type: "circle", source: "selection",
      paint: {
        "circle-radius": 17, "circle-color": palette.select, "circle-opacity": 0.25,
        "circle-stroke-color": palette.select, "circle-stroke-width": 2.5,
      },
    },
    {
      id: "clusters", type: "circle", source: "vehicles", filter: ["has", "point_count"],
      paint: {
        "circle-color": palette.cluster,
        "circle-radius": ["interpolate", ["linear"], ["ln", ["get", "point_count"]], 0.7, 13, 9, 32],
        "circle-stroke-width": 3,
        "circle-stroke-color": [
          "case",
          majority("moving"), palette.moving,
          majority("idle"), palette.idle,
          majority("parked"), palette.parked,
          palette.offline,
        ],
      },
    },
    {
      id: "cluster-counts", type: "symbol", source: "vehicles", filter: ["has", "point_count"],
      layout: {
        ...text(12), "text-field": ["get", "point_count_abbreviated"],
        "text-allow-overlap": true, "text-ignore-placement": true,
      },
      paint: { "text-color": palette.ink },
    },
    {
      id: "vehicles", type: "symbol", source: "vehicles", filter: ["!", ["has", "point_count"]],
      layout: {
        "icon-image": ["concat", "sign-", ["get", "sign"]],
        "icon-rotate": ["get", "heading"], "icon-rotation-alignment": "map",
        "icon-allow-overlap": true, "icon-ignore-placement": true,
        ...text(11),
        "text-field": ["step", ["zoom"], "", PLATES_FROM_ZOOM, ["get", "name"]],
        "text-anchor": "top", "text-offset": [0, 1.2], "text-optional": true, "text-max-width": 30,
      },
      paint: { ...halo, "text-color": palette.ink },
    },
  ];
}

// Shapes differ, not only colours: an arrow moves, a disc idles, a square is parked, a struck ring is offline.
const disc = (radius) => (pen) => pen.arc(0, 0, radius, 0, 2 * Math.PI);
const SIGNS = {
  moving: { colour: "moving", shape: arrow },
  // Moving without a known heading: an arrow to the north would be a lie.
  headless: { colour: "moving", shape: disc(6.5) },
  idle: { colour: "idle", shape: disc(6.5) },
  parked: { colour: "parked", shape: (pen) => pen.roundRect(-6, -6, 12, 12, 2.5) },
  offline: { colour: "offline", shape: disc(7), isStruck: true },
  unknown: { colour: "unknown", shape: disc(4) },
};

function arrow(pen) {
  pen.moveTo(0, -10);
  pen.lineTo(7.5, 8.5);
  pen.lineTo(0, 4.5);
  pen.lineTo(-7.5, 8.5);
  pen.closePath();
}

function drawSign({ colour, shape, isStruck = false }, palette) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIGN_PX * SIGN_RATIO;
  const pen = canvas.getContext("2d");
  pen.scale(SIGN_RATIO, SIGN_RATIO);
  pen.translate(SIGN_PX / 2, SIGN_PX / 2);
  pen.lineJoin = "round";
  pen.beginPath();
  shape(pen);
  pen.strokeStyle = palette.halo;
  pen.lineWidth = isStruck ? 6 : 3;
  pen.stroke();
  pen.fillStyle = isStruck ? palette.paper : palette[colour];
  pen.fill();
  if (isStruck) {
    pen.moveTo(-4.5, 4.5);
    pen.lineTo(4.5, -4.5);
    pen.strokeStyle = palette[colour];
    pen.lineWidth = 2.5;
    pen.stroke();
  }
  return pen.getImageData(0, 0, canvas.width, canvas.height);
}

/** Puts all signs into the map, or replaces them. */
export function setSigns(map, palette) {
  for (const [id, sign] of Object.entries(SIGNS)) {
    const name = `sign-${id}`;
    if (map.hasImage(name)) map.updateImage(name, drawSign(sign, palette));
    else map.addImage(name, drawSign(sign, palette), { pixelRatio: SIGN_RATIO });
  }
}
