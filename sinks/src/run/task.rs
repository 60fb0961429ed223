//! The task beside a sink: takes in what the workers handed over, writes steps, and repeats what failed. Steps of appended
//! rows may be under way together, as many as the sink can have in flight; a step with upserts is under way alone, so that no
//! newer version of a key can be there before an older one that is tried again.
//!
//! Invariant: no step is taken before the one that failed is written, and steps are settled in the order in which they were
//! taken; only a drain's deadline ends that.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use operators::time::Tick;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::gather::{Gather, Taken};
use super::{Fatal, Message, Options, Shared};
use crate::metrics::Metric;
use crate::step::{Rows, Sink, SinkError, Step};

pub(super) struct Task<S> {
    sink: S,
    name: &'static str,
    options: Options,
    shared: Arc<Shared>,
    received: mpsc::UnboundedReceiver<Message>,
    stopping: watch::Receiver<Option<Instant>>,
    tell_opened: watch::Sender<bool>,
    fatal: mpsc::Sender<Fatal>,
    gathers: Vec<Gather>,
    /// What is under way, the oldest first.
    flying: VecDeque<Flight>,
    /// Messages received.
    messages: u64,
    /// Whether the sink has to be opened before the next attempt.
    shut: bool,
}

/// Steps that are written together, and what they settle.
struct Flight {
    steps: Vec<Step>,
    /// Of each step: its lane, rows and bytes.
    settled: Vec<(usize, u64, u64)>,
    launched: Instant,
    /// When it became the oldest, or was launched as such: since then it is waited for.
    awaited: Instant,
}

impl Flight {
    fn of(taken: Vec<(usize, Taken)>) -> Self {
        let settled = taken.iter().map(|(index, taken)| (*index, taken.rows, taken.bytes)).collect();
        let now = Instant::now();
        let steps = taken.into_iter().map(|(_, taken)| taken.step).collect();
        Self { steps, settled, launched: now, awaited: now }
    }

    fn appends_only(&self) -> bool {
        self.steps.iter().flat_map(|step| &step.rows).all(|rows| matches!(rows, Rows::Append(_)))
    }
}

/// What the task was woken by.
enum Woken {
    Message(Option<Message>),
    Landed(Result<(), SinkError>),
    /// A row is due, a flight has been waited for too long, or a drain was ordered.
    Time,
}

/// The drain's deadline has passed.
struct GivenUp;

impl<S: Sink> Task<S> {
    pub(super) fn new(
        sink: S,
        options: Options,
        shared: Arc<Shared>,
        received: mpsc::UnboundedReceiver<Message>,
        stopping: watch::Receiver<Option<Instant>>,
        tell_opened: watch::Sender<bool>,
        fatal: mpsc::Sender<Fatal>,
    ) -> Self {
        let name = sink.name();
        let lane = |route| (0..shared.workers).map(move |worker| Gather::new(route, worker));
        let gathers = shared.routes.iter().flat_map(|&route| lane(route)).collect();
        let flying = VecDeque::new();
        Self {
            sink,
            name,
            options,
            shared,
            received,
            stopping,
            tell_opened,
            fatal,
            gathers,
            flying,
            messages: 0,
            shut: true,
        }
    }

    pub(super) async fn run(mut self) {
        let ended = async {
            self.resume().await?;
            self.write_until_stopped().await
        };
        if ended.await.is_err() {
            let rows = self.shared.queue_rows.load(Ordering::Relaxed);
            warn!(sink = self.name, rows, "stopped before all rows were written; they come again at the next start");
        }
    }

    /// Opens the sink and asks what it holds.
    async fn resume(&mut self) -> Result<(), GivenUp> {
        for index in 0..self.gathers.len() {
            let route = self.shared.routes[index / self.shared.workers];
            let worker = index % self.shared.workers;
            let applied = match self.insist(Attempt::Applied(route.stream, worker), None).await? {
                // It has lost some of what it had: all that comes is written, tables whole.
                Some(applied) if applied < self.shared.done => 0,
                Some(applied) => applied,
                None => self.shared.done,
            };
            self.gathers[index].resume(applied);
            self.shared.lanes[index].applied.store(applied, Ordering::Release);
        }
        if self.gathers.is_empty() {
            self.insist(Attempt::Open, None).await?;
        }
        info!(sink = self.name, streams = self.shared.routes.len(), "sink is open");
        self.tell_opened.send_replace(true);
        Ok(())
    }

    async fn write_until_stopped(&mut self) -> Result<(), GivenUp> {
        let mut fed = true;
        loop {
            // Without a feed nothing can come: what is closed is written, the rest can never be.
            let draining = !fed || self.stopping.borrow().is_some();
            self.take_in();
            let room = self.flying.len() < S::FLIGHTS_MAX;
            let steps = if room { self.take_steps(draining) } else { Vec::new() };
            self.show_queue();
            if !steps.is_empty() {
                self.write(Flight::of(steps)).await?;
                continue;
            }
            if draining {
                if self.flying.is_empty() {
                    return Ok(());
                }
                self.land().await?;
                continue;
            }
            match self.sleep(room).await {
                Woken::Message(Some(message)) => self.accept(message, Instant::now()),
                Woken::Message(None) => fed = false,
                Woken::Landed(Ok(())) => self.touch_down(),
                Woken::Landed(Err(error)) => self.recover(error).await?,
                Woken::Time => {}
            }
        }
    }

    /// Waits for whatever comes first. A row that is due counts only if there is room for a flight.
    async fn sleep(&mut self, room: bool) -> Woken {
        let due = self.gathers.iter().filter_map(|gather| gather.due(&self.options)).min().filter(|_| room);
        if due.is_none() && self.flying.is_empty() {
            self.shared.starved_after.store(self.messages, Ordering::Relaxed);
        }
        let limit = self.apply_max();
        let late = self.flying.front().map(|flight| flight.awaited + limit);
        tokio::select! {
            biased; // what has landed is not late
            landed = self.sink.landed(), if late.is_some() => Woken::Landed(landed),
            message = self.received.recv() => Woken::Message(message),
            () = at(late) => Woken::Landed(Err(no_answer(self.name, limit))),
            () = at(due) => Woken::Time,
            () = ordered(self.stopping.clone()) => Woken::Time,
        }
    }

    fn take_steps(&mut self, all: bool) -> Vec<(usize, Taken)> {
        let now = Instant::now();
        let mut steps = Vec::new();
        for (index, gather) in self.gathers.iter_mut().enumerate() {
            if gather.due(&self.options).is_some_and(|due| all || due <= now) {
                steps.extend(gather.take(&self.options, now).map(|taken| (index, taken)));
            }
        }
        steps
    }

    fn take_in(&mut self) {
        let now = Instant::now();
        while let Ok(message) = self.received.try_recv() {
            self.accept(message, now);
        }
    }

    fn accept(&mut self, message: Message, now: Instant) {
        self.messages += 1;
        match message {
            Message::Closed(index, upto) => self.gathers[index].close(upto, now),
            Message::Rows(index, pushed) => {
                let known = self.gathers[index].push(pushed);
                if known.rows > 0 {
                    self.settle(index, known.rows, known.bytes, 0);
                    counter!(Metric::RowsKnown.name(), "sink" => self.name, "stream" => self.stream(index))
                        .increment(known.rows);
                }
            }
        }
    }

    /// Launches the flight where that is allowed, and otherwise returns once it is written.
    async fn write(&mut self, mut flight: Flight) -> Result<(), GivenUp> {
        if S::FLIGHTS_MAX > 1 && flight.appends_only() {
            let launched = self.attempt(Attempt::Launch(&flight.steps)).await?;
            flight.awaited = Instant::now();
            self.flying.push_back(flight);
            return match launched {
                Ok(_) => Ok(()),
                Err(error) => self.recover(error).await,
            };
        }
        while !self.flying.is_empty() {
            self.land().await?;
        }
        self.insist(Attempt::Apply(&flight.steps), None).await?;
        self.settle_all(&flight);
        Ok(())
    }

    /// Waits for the oldest flight.
    async fn land(&mut self) -> Result<(), GivenUp> {
        match self.attempt(Attempt::Land).await? {
            Ok(_) => {
                self.touch_down();
                Ok(())
            }
            Err(error) => self.recover(error).await,
        }
    }

    /// The oldest flight is written.
    fn touch_down(&mut self) {
        let flight = self.flying.pop_front().expect("only a flight can land");
        let seconds = flight.launched.elapsed().as_secs_f64();
        histogram!(Metric::ApplySeconds.name(), "sink" => self.name).record(seconds);
        self.settle_all(&flight);
        if let Some(next) = self.flying.front_mut() {
            next.awaited = Instant::now();
        }
    }

    /// A flight was launched or landed in vain: all are written one after the other, the oldest first.
    async fn recover(&mut self, error: SinkError) -> Result<(), GivenUp> {
        let mut met = Some(error);
        while let Some(flight) = self.flying.pop_front() {
            self.insist(Attempt::Apply(&flight.steps), met.take()).await?;
            self.settle_all(&flight);
        }
        Ok(())
    }

    /// Everything of a flight is in the target.
    fn settle_all(&self, flight: &Flight) {
        for (&(index, rows, bytes), step) in flight.settled.iter().zip(&flight.steps) {
            self.settle(index, rows, bytes, step.upto);
            let (stream, written) = (step.stream, step.len() as u64);
            counter!(Metric::Rows.name(), "sink" => self.name, "stream" => stream).increment(written);
            counter!(Metric::RowsConflated.name(), "sink" => self.name, "stream" => stream).increment(rows - written);
            counter!(Metric::Steps.name(), "sink" => self.name, "stream" => stream).increment(1);
            histogram!(Metric::StepRows.name(), "sink" => self.name, "stream" => stream).record(written as f64);
            let workers = index / self.shared.workers * self.shared.workers;
            let durable = (workers..workers + self.shared.workers).map(|lane| self.shared.durable(lane)).min();
            gauge!(Metric::DurableSeconds.name(), "sink" => self.name, "stream" => stream)
                .set(durable.unwrap_or(0) as f64 / 1_000.0);
        }
    }

    /// `rows` are in the target, and with them every row before `upto`.
    fn settle(&self, index: usize, rows: u64, bytes: u64, upto: Tick) {
        let lane = &self.shared.lanes[index];
        lane.applied.fetch_max(upto, Ordering::Release);
        lane.settled.fetch_add(rows, Ordering::Release);
        self.shared.queue_rows.fetch_sub(rows, Ordering::Relaxed);
        self.shared.queue_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Tries until it succeeds, opening the sink first where that is needed; `met` is an error that came before.
    async fn insist(&mut self, attempt: Attempt<'_>, mut met: Option<SinkError>) -> Result<Option<Tick>, GivenUp> {
        let mut failures = 0u32;
        let mut reported = false;
        loop {
            let started = Instant::now();
            let tried = match met.take() {
                Some(error) => Err(error),
                None => self.attempt(attempt).await?,
            };
            let error = match tried {
                Ok(applied) => {
                    if failures > 0 {
                        self.show_trouble(None);
                        info!(sink = self.name, failures, "sink works again");
                    }
                    if matches!(attempt, Attempt::Apply(_)) {
                        let seconds = started.elapsed().as_secs_f64();
                        histogram!(Metric::ApplySeconds.name(), "sink" => self.name).record(seconds);
                    }
                    return Ok(applied);
                }
                Err(error) => error,
            };
            self.shut = true;
            failures += 1;
            self.show_trouble(Some(error.to_string()));
            let pause = self.pause(failures, &error);
            let code = if matches!(error, SinkError::Refused { .. }) { "refused" } else { "unavailable" };
            counter!(Metric::Errors.name(), "sink" => self.name, "code" => code).increment(1);
            if failures.is_power_of_two() {
                warn!(sink = self.name, code, failures, pause_ms = pause.as_millis() as u64, "{error}");
            }
            if !reported && code == "refused" {
                reported = true;
                // A receiver that does not read its reports has this one in the log.
                let _ = self.fatal.try_send(Fatal { sink: self.name, error });
            }
            self.show_queue();
            self.rest(pause).await?;
            counter!(Metric::Retries.name(), "sink" => self.name).increment(1);
        }
    }

    /// One attempt, cut off at `apply_ms_max` and at a drain's deadline.
    async fn attempt(&mut self, attempt: Attempt<'_>) -> Result<Result<Option<Tick>, SinkError>, GivenUp> {
        let limit = self.apply_max();
        let (sink, shut) = (&mut self.sink, &mut self.shut);
        let work = async {
            if *shut {
                sink.open().await?;
                *shut = false;
            }
            match attempt {
                Attempt::Open => Ok(None),
                Attempt::Applied(stream, worker) => sink.applied(stream, worker).await,
                Attempt::Apply(steps) => sink.apply_all(steps).await.map(|()| None),
                Attempt::Launch(steps) => sink.launch(steps).await.map(|()| None),
                Attempt::Land => sink.landed().await.map(|()| None),
            }
        };
        tokio::select! {
            done = timeout(limit, work) => Ok(done.unwrap_or_else(|_| Err(no_answer(self.name, limit)))),
            () = passed(self.stopping.clone()) => Err(GivenUp),
        }
    }

    fn apply_max(&self) -> Duration {
        Duration::from_millis(self.options.apply_ms_max)
    }

    async fn rest(&mut self, pause: Duration) -> Result<(), GivenUp> {
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = passed(self.stopping.clone()) => Err(GivenUp),
        }
    }

    /// Doubles with each failure; half of it by chance, so that many processes do not come back at once.
    fn pause(&self, failures: u32, error: &SinkError) -> Duration {
        let (min, max) = (self.options.retry_ms_min.max(1), self.options.retry_ms_max.max(1));
        let whole = match error {
            SinkError::Unavailable { .. } => min.saturating_mul(1 << (failures - 1).min(20)).min(max),
            SinkError::Refused { .. } => max,
        };
        let chance = RandomState::new().hash_one(failures) % (whole / 2 + 1);
        Duration::from_millis(whole - chance)
    }

    fn stream(&self, index: usize) -> &'static str {
        self.shared.routes[index / self.shared.workers].stream
    }

    fn show_trouble(&self, trouble: Option<String>) {
        *self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn show_queue(&self) {
        gauge!(Metric::QueueRows.name(), "sink" => self.name)
            .set(self.shared.queue_rows.load(Ordering::Relaxed) as f64);
        gauge!(Metric::QueueBytes.name(), "sink" => self.name)
            .set(self.shared.queue_bytes.load(Ordering::Relaxed) as f64);
    }
}

/// What is asked of the sink.
#[derive(Clone, Copy)]
enum Attempt<'a> {
    Open,
    Applied(&'static str, usize),
    Apply(&'a [Step]),
    Launch(&'a [Step]),
    Land,
}

fn no_answer(sink: &str, limit: Duration) -> SinkError {
    let why = format!("no answer within {} ms (apply_ms_max)", limit.as_millis());
    SinkError::Unavailable { target: sink.to_owned(), why }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Returns once a drain was ordered.
async fn ordered(mut stopping: watch::Receiver<Option<Instant>>) {
    if stopping.wait_for(Option::is_some).await.is_err() {
        std::future::pending().await
    }
}

/// Returns once a drain was ordered and its deadline has passed.
async fn passed(mut stopping: watch::Receiver<Option<Instant>>) {
    let end = stopping.wait_for(Option::is_some).await.ok().and_then(|end| *end);
    at(end).await;
}
