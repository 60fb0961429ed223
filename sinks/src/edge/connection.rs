//! One WebSocket connection, served by one task: it reads what the client says, makes messages as long as there is room for
//! them, and writes them as fast as the socket takes them. Nothing else ever waits for it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use operators::error::Refusal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use super::context::Context;
use super::message::{self, ClientMessage, Refused};
use super::metrics::{count_closed, count_message_refused};
use super::outbox::{Kind, Outbox, Outgoing};
use super::patience::{Allowance, Clocks, Due, Ending};
use super::selection::{Patch, Selection, unknown};
use super::subscription::{Next, Subscription};

/// Bytes of messages that are made before the socket is looked at again.
const MADE_BYTES: usize = 64 * 1024;
/// How long the last words to a client may take.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long the client's own close is waited for.
const CLOSE: Duration = Duration::from_secs(2);

/// A connection.
pub struct Connection<S> {
    context: Arc<Context>,
    socket: WebSocketStream<S>,
    /// Tells this client from others, for spreading.
    number: u64,
    subscriptions: Vec<Subscription>,
    /// The subscription whose turn it is.
    turn: usize,
    outbox: Outbox,
    /// What was handed to the socket and is not flushed yet: kind, bytes, version.
    writing: Option<(Kind, usize, Option<u64>)>,
    /// Bytes of snapshots taken by the client since it was last found to make progress.
    snapshot_bytes: usize,
    allowance: Allowance,
    strikes: u32,
    clocks: Clocks,
}

/// What the socket has for us.
enum Socket {
    /// Messages went out.
    Written,
    /// A message came in.
    Message(Message),
    /// The frames cannot be understood.
    Broken(Ending),
    /// The client is gone.
    Gone,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// A connection over `socket`.
    #[must_use]
    pub fn new(context: Arc<Context>, socket: WebSocketStream<S>, number: u64) -> Self {
        let now = Instant::now();
        let options = &context.options;
        Self {
            socket,
            number,
            subscriptions: Vec::new(),
            turn: 0,
            outbox: Outbox::new(options.outbox_bytes_max),
            writing: None,
            snapshot_bytes: 0,
            allowance: Allowance::new(options.messages_per_minute_max, now),
            strikes: 0,
            clocks: Clocks::new(options, now),
            context,
        }
    }

    /// Serves the client until it leaves, has to be sent away, or `stop` says so.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        self.context.figures.connections.increment(1);
        self.outbox.push(Outgoing::control(message::hello(&self.context.server_id, &self.context.options)));
        match self.serve(&mut stop).await {
            Some(ending) => self.part(ending).await,
            None => self.read_on().await,
        }
        self.context.figures.connections.decrement(1);
    }

    /// Serves until the client is gone (`None`) or has to be told to go.
    async fn serve(&mut self, stop: &mut watch::Receiver<bool>) -> Option<Ending> {
        let mut published = self.context.hub.published();
        loop {
            let now = Instant::now();
            let (busy, wake) = self.make(now);
            let deadline = loop {
                match self.clocks.due(now) {
                    Due::End(ending) => return Some(ending),
                    // Queued behind what is being written; if the socket is broken, reading will tell.
                    Due::Ping => drop(self.socket.start_send_unpin(Message::Ping(Default::default()))),
                    Due::At(at) => break wake.map_or(at, |wake| wake.min(at)),
                }
            };
            tokio::select! {
                biased;
                event = self.socket_event() => match event {
                    Socket::Written => {}
                    Socket::Message(message) => {
                        if let Some(ending) = self.receive(message) {
                            return ending.ending();
                        }
                    }
                    Socket::Broken(ending) => return Some(ending),
                    Socket::Gone => return None,
                },
                () = stopped(stop) => return Some(Ending::SHUTDOWN),
                () = std::future::ready(()), if busy => tokio::task::yield_now().await,
                // The hub lives as long as the context.
                _ = published.changed() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    /// Makes messages while there is room, the subscriptions taking turns. Says whether there is more to do at once, and
    /// else when there may be.
    fn make(&mut self, now: Instant) -> (bool, Option<Instant>) {
        let (mut made, mut nothing, mut busy) = (0, 0, false);
        while nothing < self.subscriptions.len() && !self.outbox.is_full() {
            self.turn = (self.turn + 1) % self.subscriptions.len();
            match self.subscriptions[self.turn].next(now) {
                Next::Message(message) => {
                    made += message.size_bytes();
                    nothing = 0;
                    self.outbox.push(message);
                }
                Next::Looking => {
                    made += MADE_BYTES / 8;
                    nothing = 0;
                }
                Next::Nothing => nothing += 1,
            }
            if made >= MADE_BYTES {
                busy = true;
                break;
            }
        }
        let blocked = self.outbox.is_full() && self.subscriptions.iter().any(|one| one.is_pending(now));
        self.clocks.set_slow(blocked, now);
        (busy && !blocked, self.subscriptions.iter().filter_map(|one| one.wakes_at(now)).min())
    }

    /// Writes what there is and waits for the client. Can be given up and called again at any time.
    async fn socket_event(&mut self) -> Socket {
        poll_fn(|cx| {
            match self.socket.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(message))) => return Poll::Ready(Socket::Message(message)),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(broken(&error)),
                Poll::Ready(None) => return Poll::Ready(Socket::Gone),
                Poll::Pending => {}
            }
            let mut written = false;
            loop {
                match self.socket.poll_flush_unpin(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Err(_)) => return Poll::Ready(Socket::Gone),
                    Poll::Ready(Ok(())) => {}
                }
                if let Some((kind, bytes, version)) = self.writing.take() {
                    written = true;
                    self.count(kind, bytes, version);
                }
                let Some(message) = self.outbox.pop() else { break };
                self.writing = Some((message.kind, message.size_bytes(), message.version));
                if self.socket.start_send_unpin(message.into_message()).is_err() {
                    return Poll::Ready(Socket::Gone);
                }
            }
            if written { Poll::Ready(Socket::Written) } else { Poll::Pending }
        })
        .await
    }

    fn count(&mut self, kind: Kind, bytes: usize, version: Option<u64>) {
        let figures = &self.context.figures;
        match kind {
            Kind::Snapshot => figures.snapshot.count(bytes),
            Kind::Delta => figures.delta.count(bytes),
            Kind::Control => figures.control.count(bytes),
        }
        if let Some(version) = version {
            figures.delivery.record(self.context.since(version));
        }
        if kind == Kind::Snapshot {
            // A long snapshot over a thin line is no slowness as long as an outbox of it gets through in time.
            self.snapshot_bytes += bytes;
            if self.snapshot_bytes >= self.context.options.outbox_bytes_max {
                self.snapshot_bytes = 0;
                self.clocks.set_slow(false, Instant::now());
            }
        }
    }

    /// Takes in one message. `Some` ends the connection.
    fn receive(&mut self, message: Message) -> Option<Over> {
        self.clocks.heard();
        let now = Instant::now();
        let text = match message {
            Message::Close(_) => return Some(Over::Left),
            Message::Pong(_) | Message::Frame(_) => return None,
            Message::Ping(_) | Message::Text(_) | Message::Binary(_) if !self.allowance.take(now) => {
                let per_minute = self.context.options.messages_per_minute_max;
                let why = Refusal::new("rate_limited", format!("more than {per_minute} messages a minute"));
                return self.refuse(&why, None, Some(Ending::RATE_LIMITED));
            }
            Message::Ping(_) => return None,
            Message::Binary(_) => {
                let why = Refusal::new("ws_bad_message", "a binary message").hint("messages are JSON texts");
                return self.refuse(&why, None, Some(Ending::BAD_MESSAGES));
            }
            Message::Text(text) => text,
        };
        let over = match message::parse(&text) {
            Ok(message) => match self.obey(message) {
                Ok(()) => None,
                Err(Refused { why, id }) => self.refuse(&why, id.as_deref(), strike(&why)),
            },
            Err(Refused { why, id }) => self.refuse(&why, id.as_deref(), strike(&why)),
        };
        self.clocks.set_idle(self.subscriptions.is_empty(), now);
        over
    }

    fn refuse(&mut self, why: &Refusal, id: Option<&str>, strike: Option<Ending>) -> Option<Over> {
        count_message_refused(why.code);
        self.outbox.push(Outgoing::control(message::error(why, id)));
        let ending = strike?;
        self.strikes += 1;
        (self.strikes >= self.context.options.strikes_max).then_some(Over::Ended(ending))
    }

    fn obey(&mut self, message: ClientMessage) -> Result<(), Refused> {
        let all = Selection::all(self.context.hub.reader().layout());
        match message {
            ClientMessage::Ping => self.outbox.push(Outgoing::control(message::pong())),
            ClientMessage::Subscribe { id, patch, max_rate_ms } => {
                self.may_subscribe(&id).map_err(|why| Refused { why, id: Some(id.clone()) })?;
                let selection = self.patched(&all, &patch, &id)?;
                let pause = Duration::from_millis(max_rate_ms.unwrap_or(0));
                self.subscriptions.push(Subscription::new(&self.context, id, selection, pause));
            }
            ClientMessage::Update { id, patch, max_rate_ms } => {
                let index = self.find(&id)?;
                let selection = self.patched(self.subscriptions[index].wanted(), &patch, &id)?;
                self.subscriptions[index].update(selection, max_rate_ms.map(Duration::from_millis));
            }
            ClientMessage::Unsubscribe { id } => {
                let index = self.find(&id)?;
                self.subscriptions.remove(index);
            }
        }
        Ok(())
    }

    fn patched(&self, selection: &Selection, patch: &Patch, id: &str) -> Result<Selection, Refused> {
        let layout = self.context.hub.reader().layout();
        let patched = selection.patched(patch, layout, self.context.options.vehicles_max);
        patched.map_err(|why| Refused { why, id: Some(id.to_owned()) })
    }

    fn may_subscribe(&self, id: &str) -> Result<(), Refusal> {
        let subscriptions_max = self.context.options.subscriptions_max;
        if self.subscriptions.iter().any(|one| one.id() == id) {
            return Err(Refusal::new("ws_bad_message", format!("id \"{id}\" is in use"))
                .at("id")
                .hint("change a subscription by update, end it by unsubscribe"));
        }
        if self.subscriptions.len() >= subscriptions_max {
            let message = format!("a connection has at most {subscriptions_max} subscriptions");
            return Err(Refusal::new("subscription_limit", message).hint("unsubscribe from one, or widen a filter"));
        }
        Ok(())
    }

    fn find(&self, id: &str) -> Result<usize, Refused> {
        self.subscriptions.iter().position(|one| one.id() == id).ok_or_else(|| {
            let known = self.subscriptions.iter().map(Subscription::id);
            let why = unknown("subscription_unknown", "subscription", id, known).at("id");
            Refused { why, id: Some(id.to_owned()) }
        })
    }

    /// Tells the client why the connection ends, and ends it.
    async fn part(&mut self, ending: Ending) {
        count_closed(ending.reason);
        if ending == Ending::SLOW {
            self.context.figures.slow_closed.increment(1);
        }
        self.subscriptions.clear();
        self.outbox.clear();
        let retry_after_ms = self.context.retry_after_ms(self.number);
        let bye = Message::Text(message::bye(ending.reason, retry_after_ms).into());
        let close = CloseFrame { code: ending.code.into(), reason: Utf8Bytes::from_static(ending.reason) };
        let last_words = async {
            self.socket.feed(bye).await?;
            self.socket.send(Message::Close(Some(close))).await
        };
        if !matches!(tokio::time::timeout(FAREWELL, last_words).await, Ok(Ok(()))) {
            return;
        }
        self.read_on().await;
        if [Ending::TOO_LARGE, Ending::PROTOCOL, Ending::UTF8].contains(&ending) {
            // Closing with unread bytes would reset the connection and could take the last words with it.
            let mut unread = [0; 4_096];
            let drain = async { while !matches!(self.socket.get_mut().read(&mut unread).await, Ok(0) | Err(_)) {} };
            let _ = tokio::time::timeout(CLOSE, drain).await;
        }
    }

    /// Reads until the closing handshake is through.
    async fn read_on(&mut self) {
        let _ = tokio::time::timeout(CLOSE, async { while let Some(Ok(_)) = self.socket.next().await {} }).await;
    }
}

/// Waits until the server stops, or is gone.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// How a message ends the connection.
enum Over {
    /// The client closed it.
    Left,
    /// The server closes it.
    Ended(Ending),
}

impl Over {
    fn ending(self) -> Option<Ending> {
        match self {
            Over::Left => None,
            Over::Ended(ending) => Some(ending),
        }
    }
}

/// Mistakes of the protocol count against the client; a filter that cannot be met does not.
fn strike(why: &Refusal) -> Option<Ending> {
    (why.code == "ws_bad_message").then_some(Ending::BAD_MESSAGES)
}

fn broken(error: &tungstenite::Error) -> Socket {
    use tungstenite::error::ProtocolError;
    match error {
        tungstenite::Error::Capacity(_) => Socket::Broken(Ending::TOO_LARGE),
        tungstenite::Error::Utf8(_) => Socket::Broken(Ending::UTF8),
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Socket::Gone,
        tungstenite::Error::Protocol(_) => Socket::Broken(Ending::PROTOCOL),
        _ => Socket::Gone,
    }
}
