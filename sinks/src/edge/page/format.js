// How values are written for people. Everything returns plain text; `null` becomes a dash.

const DASH = "–";
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
/** Dates outside of this (ms) cannot be written. */
const DATE_MS_MAX = 8.64e15;

// Control characters, and those that would turn the direction of the text around them.
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** Text from outside, cut to `charsMax` and without characters that would disturb the text around it. */
export const printable = (value, charsMax) => value.slice(0, charsMax).replace(UNPRINTABLE, "");

export const text = (value) => (value === null || value === "" ? DASH : value);

/** A number with at most `digits` decimals and its unit. */
export function quantity(value, unit = "", digits = 0) {
  if (value === null) return DASH;
  const number = value.toLocaleString(undefined, { maximumFractionDigits: digits });
  return unit ? `${number} ${unit}` : number;
}

export const yesNo = (value, yes, no) => (value === null ? DASH : value ? yes : no);

export function time(ms) {
  return ms === null || Math.abs(ms) > DATE_MS_MAX ? DASH : clock.format(ms);
}

/** A span of time in its largest one or two units; what lies in the future counts as nothing. */
export function span(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1_000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

const POINTS = ["N", "NE", "E", "SE", "S", "SW", "W", "NW"];

export function heading(degrees) {
  if (degrees === null) return DASH;
  const turned = ((degrees % 360) + 360) % 360;
  return `${Math.round(turned)}° ${POINTS[Math.round(turned / 45) % 8]}`;
}

export function position({ lat, lon }) {
  return lat === null || lon === null ? DASH : `${lat.toFixed(5)}, ${lon.toFixed(5)}`;
}

/** Writes text into an element; one that already shows it is left alone. */
export function write(target, value) {
  if (target.textContent !== value) target.textContent = value;
}
