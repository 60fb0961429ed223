// The last positions of one vehicle, oldest first, in a bounded buffer that grows on demand:
// twenty thousand vehicles have to fit into a browser tab.

const POINTS_START = 8;
const POINTS_MAX = 128;
/** When the buffer is full this many of the oldest points go at once. */
const POINTS_DROPPED = 32;
/** Positions closer than this to the one before (about 15 m) are jitter, not a trail. */
const STEP_DEG_MIN = 0.00015;

export class Trail {
  #points = null;
  length = 0;

  push(lon, lat) {
    this.#points ??= new Float64Array(POINTS_START * 2);
    const last = this.length * 2 - 2;
    if (last >= 0) {
      const east = (lon - this.#points[last]) * Math.cos((lat * Math.PI) / 180);
      if (Math.hypot(east, lat - this.#points[last + 1]) < STEP_DEG_MIN) return;
    }
    if (this.length === POINTS_MAX) {
      this.#points.copyWithin(0, POINTS_DROPPED * 2);
      this.length -= POINTS_DROPPED;
    } else if (this.length * 2 === this.#points.length) {
      const grown = new Float64Array(Math.min(this.#points.length * 2, POINTS_MAX * 2));
      grown.set(this.#points);
      this.#points = grown;
    }
    this.#points[this.length * 2] = lon;
    this.#points[this.length * 2 + 1] = lat;
    this.length++;
  }

  /** The trail as [lon, lat] pairs. */
  coordinates() {
    return Array.from({ length: this.length }, (_, i) => [this.#points[i * 2], this.#points[i * 2 + 1]]);
  }
}
