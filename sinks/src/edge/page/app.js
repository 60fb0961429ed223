// The live map page: joins connection, table, map, list and card.

import { Card } from "./card.js";
import { FleetList } from "./fleet-list.js";
import { printable, span, write } from "./format.js";
import { FleetMap } from "./map.js";
import { Connection } from "./protocol.js";
import { VehicleTable } from "./table.js";

/** Several messages that arrive together are drawn once. */
const REFRESH_MS = 100;
/** Older than this, the newest position is called out. */
const STALE_MS = 30_000;
const NOTICE_CHARS_MAX = 200;
const EDGE_PX = 48;
const FIT_GROWTH = 1.2;
const SERVER_SAYS = "The server says: ";

const byId = (id) => document.getElementById(id);
const root = document.documentElement;
const side = document.querySelector(".side");

const table = new VehicleTable();
let connection = { name: "connecting" };
/** How many vehicles the view was last fitted to; null once the user has taken the map in hand. */
let fittedSize = 0;
let refreshTimer = null;

const list = new FleetList(
  table,
  {
    statuses: byId("statuses"), search: byId("search"), company: byId("company"),
    list: byId("list"), title: byId("list-title"), note: byId("list-note"),
  },
  { onFilter: applyFilter, onSelect: (vehicle) => select(vehicle, { isFromList: true }) },
);
const card = new Card(byId("card"), () => select(null));
const map = openMap();

function openMap() {
  try {
    const opened = new FleetMap(byId("map"), {
      onSelect: (key) => select(key === null ? null : table.byKey(key)),
      onDrawn: () => (root.dataset.drawn = "true"),
    });
    fetch("basemap.json")
      .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(`status ${answer.status}`))))
      .then((topology) => opened.setBasemap(topology))
      .catch((error) => notify(`The base map could not be loaded (${error.message}); vehicles are still shown.`));
    return opened;
  } catch (error) {
    console.error(error);
    notify("This browser cannot draw the map (WebGL 2 is missing). The list still works.");
    return null;
  }
}

function select(vehicle, { isFromList = false } = {}) {
  if (vehicle) fittedSize = null;
  const previous = card.vehicle;
  list.setSelected(vehicle ?? null);
  map?.select(vehicle ?? null);
  if (!vehicle) {
    const hadFocus = byId("card").contains(document.activeElement);
    card.hide();
    if (previous && hadFocus) byId("search").focus({ preventScroll: true });
    return;
  }
  card.show(vehicle);
  if (isFromList) {
    setPanelOpen(false);
    map?.flyTo(vehicle, uncovered());
  }
  card.focus();
}

/** The room that panels take from each side of the map, in pixels. */
function uncovered() {
  const room = { left: 0, right: 0, top: 0, bottom: 0 };
  const isWide = matchMedia("(min-width: 700px)").matches;
  const sideBox = side.getBoundingClientRect();
  if (isWide) room.left = sideBox.right;
  else room.top = sideBox.bottom;
  const cardBox = byId("card").getBoundingClientRect();
  if (!byId("card").hidden) {
    if (isWide) room.right = innerWidth - cardBox.left;
    else room.bottom = innerHeight - cardBox.top;
  }
  return room;
}

function fit(animate) {
  const room = uncovered();
  const padding = Object.fromEntries(Object.entries(room).map(([edge, px]) => [edge, px + EDGE_PX]));
  map?.fit(list.visible(), padding, animate);
}

// A page opened while the fleet is only just coming in follows its growth, until somebody touches the map.
function fitAtFirst() {
  if (fittedSize === null || table.size <= fittedSize * FIT_GROWTH) return;
  fittedSize = table.size;
  fit(false);
}

function applyFilter() {
  list.refresh();
  map?.update(table.vehicles(), [], list.isVisible);
}

function scheduleRefresh() {
  refreshTimer ??= setTimeout(refresh, REFRESH_MS);
}

function refresh() {
  clearTimeout(refreshTimer);
  refreshTimer = null;
  const { changed, removed } = table.takeChanges();
  list.refresh();
  map?.update(changed, removed, list.isVisible);
  if (removed.has(card.vehicle)) select(null);
  if (changed.has(card.vehicle)) {
    card.refresh();
    if (card.isFollowing) map?.follow(card.vehicle, uncovered());
  }
  fitAtFirst();
  root.dataset.vehicles = String(table.size);
  root.dataset.moved = String(table.movedCount);
  showAge();
}

function showAge() {
  const age = byId("age");
  if (table.newestTs === null) {
    age.textContent = "";
    return;
  }
  const ms = Date.now() - table.newestTs;
  age.textContent = `newest data ${span(ms)} old`;
  age.classList.toggle("stale", ms > STALE_MS);
}

function showConnection() {
  const { name, retryAt } = connection;
  root.dataset.connection = name;
  byId("badge").dataset.state = name;
  // The countdown is outside of the status region: read aloud every second it would be a nuisance.
  write(byId("badge-text"), name);
  const seconds = Math.max(1, Math.round((retryAt - Date.now()) / 1_000));
  byId("badge-countdown").textContent = name === "reconnecting" ? ` in ${seconds} s` : "";
}

function notify(message) {
  const notice = byId("notice");
  notice.textContent = printable(message, NOTICE_CHARS_MAX);
  notice.hidden = false;
}

/** What the server complained of is over once it delivers; what the browser lacks stays said. */
function forgetServerError() {
  if (byId("notice").textContent.startsWith(SERVER_SAYS)) byId("notice").hidden = true;
}

function setPanelOpen(isOpen) {
  side.classList.toggle("open", isOpen);
  byId("panel-toggle").setAttribute("aria-expanded", String(isOpen));
}

for (const gesture of ["pointerdown", "wheel", "keydown"]) {
  byId("map").addEventListener(gesture, () => (fittedSize = null), { passive: true });
}
byId("panel-toggle").addEventListener("click", () => setPanelOpen(!side.classList.contains("open")));
byId("fit").addEventListener("click", () => {
  setPanelOpen(false);
  fit(true);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && card.vehicle) select(null);
  const isTyping = event.target.matches?.("input, select");
  if (event.key === "/" && !isTyping) {
    event.preventDefault();
    setPanelOpen(true);
    byId("search").focus();
  }
});
setInterval(() => {
  showConnection();
  showAge();
  card.refresh();
}, 1_000);

const url = new URL("realtime/ws", location.href);
url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
new Connection(url, {
  onState(state) {
    connection = state;
    if (state.name === "live") forgetServerError();
    showConnection();
  },
  onSnapshot(rows, more) {
    table.applySnapshot(rows, more);
    if (more) return;
    refresh();
  },
  onDelta(upserts, removedIds) {
    table.applyDelta(upserts, removedIds);
    scheduleRefresh();
  },
  onLost: () => table.abandonSnapshot(),
  onError: ({ code, message }) => notify(`${SERVER_SAYS}${message || code}`),
}).open();
