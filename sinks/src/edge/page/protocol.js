// The connection to the edge: WebSocket `haulstream.v1.json`, one subscription, and its healing.
//
// Whatever breaks (a lost network, a silent server, a `bye`, a message that is no JSON), the answer is the
// same: close, wait 1, 2, then 5 s (with jitter), connect again and start from a fresh snapshot.

const SUBPROTOCOL = "haulstream.v1.json";
const SUBSCRIPTION_ID = "1";
const BACKOFF_MS = [1_000, 2_000, 5_000];
const BACKOFF_JITTER = 0.2;
/** What a server may ask for in `bye` at most. */
const RETRY_AFTER_MS_MAX = 60_000;
/** Connecting, `hello` and the first snapshot message may each take this long. */
const ANSWER_MS_MAX = 10_000;
const HEARTBEAT_MS_DEFAULT = 25_000;
const HEARTBEAT_MS_MIN = 1_000;
const HEARTBEAT_MS_MAX = 120_000;
/** A connection that was live this long starts its backoff from the beginning. */
const STABLE_MS = 10_000;

const asArray = (value) => (Array.isArray(value) ? value : []);

export class Connection {
  #url;
  #handlers;
  #socket = null;
  #failures = 0;
  #liveSince = null;
  #heartbeatMs = HEARTBEAT_MS_DEFAULT;
  #silenceTimer = null;
  #retryTimer = null;
  #retryAfterMs = null;

  /**
   * `handlers`: `onState({name, retryAt})` with name "connecting", "live" or "reconnecting" (`retryAt` in ms
   * since the epoch), `onSnapshot(rows, more)`, `onDelta(upserts, removedIds)`, `onLost()`, and
   * `onError({code, message})` for what the server refused.
   */
  constructor(url, handlers) {
    this.#url = url;
    this.#handlers = handlers;
    window.addEventListener("online", () => this.#retryTimer !== null && this.open());
  }

  open() {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = null;
    this.#retryAfterMs = null;
    this.#heartbeatMs = HEARTBEAT_MS_DEFAULT;
    this.#handlers.onState({ name: "connecting" });
    const socket = new WebSocket(this.#url, SUBPROTOCOL);
    this.#socket = socket;
    socket.addEventListener("message", (event) => socket === this.#socket && this.#receive(event.data));
    socket.addEventListener("close", () => socket === this.#socket && this.#lose());
    this.#expectWithin(ANSWER_MS_MAX, () => this.#lose());
  }

  #receive(text) {
    this.#watchSilence();
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      console.warn("realtime: the server sent a message that is no JSON; connecting again");
      this.#lose();
      return;
    }
    switch (message?.type) {
      case "hello":
        this.#greet(message);
        break;
      case "snapshot":
        this.#takeSnapshot(message);
        break;
      case "delta":
        if (message.id === SUBSCRIPTION_ID) {
          this.#handlers.onDelta(asArray(message.upsert), asArray(message.remove));
        }
        break;
      case "error":
        this.#handlers.onError({ code: String(message.code ?? ""), message: String(message.message ?? "") });
        break;
      case "bye":
        if (Number.isFinite(message.retry_after_ms)) {
          this.#retryAfterMs = Math.min(Math.max(message.retry_after_ms, 0), RETRY_AFTER_MS_MAX);
        }
        this.#lose();
        break;
      default: // `pong`, and what later versions add
    }
  }

  #greet({ heartbeat_ms: heartbeatMs }) {
    if (Number.isFinite(heartbeatMs)) {
      this.#heartbeatMs = Math.min(Math.max(heartbeatMs, HEARTBEAT_MS_MIN), HEARTBEAT_MS_MAX);
    }
    this.#send({ type: "subscribe", id: SUBSCRIPTION_ID, stream: "vehicle_state" });
    this.#expectWithin(ANSWER_MS_MAX, () => this.#lose());
  }

  #takeSnapshot({ id, rows, more }) {
    if (id !== SUBSCRIPTION_ID) return;
    this.#handlers.onSnapshot(asArray(rows), more === true);
    if (more === true || this.#liveSince !== null) return;
    this.#liveSince = Date.now();
    this.#handlers.onState({ name: "live" });
  }

  // The server's own pings are invisible to a page, so silence is answered by a ping of ours first.
  #watchSilence() {
    this.#expectWithin(this.#heartbeatMs, () => {
      this.#send({ type: "ping" });
      this.#expectWithin(ANSWER_MS_MAX, () => this.#lose());
    });
  }

  #expectWithin(ms, otherwise) {
    clearTimeout(this.#silenceTimer);
    this.#silenceTimer = setTimeout(otherwise, ms);
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #lose() {
    clearTimeout(this.#silenceTimer);
    const socket = this.#socket;
    // Forgotten before it is closed: on a dead network the close event can take minutes.
    this.#socket = null;
    socket?.close();
    if (this.#liveSince !== null && Date.now() - this.#liveSince >= STABLE_MS) this.#failures = 0;
    this.#liveSince = null;
    const backoffMs = BACKOFF_MS[Math.min(this.#failures, BACKOFF_MS.length - 1)];
    this.#failures++;
    const jitter = 1 - BACKOFF_JITTER + 2 * BACKOFF_JITTER * Math.random();
    const waitMs = this.#retryAfterMs ?? backoffMs * jitter;
    this.#retryTimer = setTimeout(() => this.open(), waitMs);
    this.#handlers.onLost();
    this.#handlers.onState({ name: "reconnecting", retryAt: Date.now() + waitMs });
  }
}
