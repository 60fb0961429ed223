//! The contract of every sink: numbered steps, and the same step twice counts once.

use std::future::Future;

use arrow::array::RecordBatch;
use operators::time::Tick;
use thiserror::Error;

/// What one stream of the dataflow gives to a sink.
#[derive(Clone, Debug)]
pub enum Rows {
    /// Rows to keep for ever (history, events). A row's identity is in its columns, so that writing it again replaces it.
    Append(RecordBatch),
    /// Changes of a table: of each key the row with the highest `__tick` stands; of one tick, deletes
    /// (`__deleted`) count before upserts.
    Upsert(RecordBatch),
}

impl Rows {
    /// The batch itself.
    #[must_use]
    pub fn batch(&self) -> &RecordBatch {
        match self {
            Rows::Append(batch) | Rows::Upsert(batch) => batch,
        }
    }
}

/// All rows of one stream from one worker with ticks in `from..upto`. As [`run`](crate::run) makes steps, a key stands at
/// most once among a step's upserts.
#[derive(Clone, Debug)]
pub struct Step {
    /// Name of the stream, such as `telemetry_enriched` or `vehicle_state`.
    pub stream: &'static str,
    /// Worker that made the rows.
    pub worker: usize,
    /// First tick that the step may hold.
    pub from: Tick,
    /// First tick after the step: its number.
    pub upto: Tick,
    /// The rows, in the order in which they were made.
    pub rows: Vec<Rows>,
}

impl Step {
    /// Rows in the step.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.iter().map(|rows| rows.batch().num_rows()).sum()
    }

    /// Whether the step holds no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a step could not be applied.
#[derive(Debug, Error)]
pub enum SinkError {
    /// The target is away or overloaded; the same step will be tried again after a pause.
    #[error("{target}: {why}")]
    Unavailable {
        /// Which service, and where.
        target: String,
        /// What it said.
        why: String,
    },
    /// The target refuses these rows, or the configuration cannot work; trying again will not help.
    #[error("{target}: {why}")]
    Refused {
        /// Which service, and where.
        target: String,
        /// What it said, and what to do.
        why: String,
    },
}

/// A place that rows are written to.
///
/// `apply` is called with steps of growing number for each (stream, worker); one that failed is called again with the same
/// step until it succeeds, so a sink must tolerate that parts of it, or all of it, are there already.
///
/// A sink whose target is worth more than one wait at a time lets several calls' steps be under way, each a *flight*: see
/// [`launch`](Self::launch).
pub trait Sink: Send + 'static {
    /// Flights that may be under way at once; with 1 nothing is ever launched.
    const FLIGHTS_MAX: usize = 1;

    /// Name for logs and metrics, such as `redis`.
    fn name(&self) -> &'static str;

    /// Makes ready whatever the sink needs (tables, topics, connections). Called once before the first step and again after
    /// it failed.
    fn open(&mut self) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// The number of the newest step of this stream and worker that the target can show to have; rows before it are not
    /// sent again. `None` where the target cannot tell: it is taken to have what the last checkpoint says.
    fn applied(
        &mut self,
        stream: &'static str,
        worker: usize,
    ) -> impl Future<Output = Result<Option<Tick>, SinkError>> + Send;

    /// Writes all rows of a step and returns once they are durable. Applying the same step again changes nothing.
    fn apply(&mut self, step: &Step) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// [`apply`](Self::apply) for several steps, at most one of each (stream, worker): worth overriding where the target is
    /// waited for once instead of once a step. If it fails, all of them are given again.
    fn apply_all(&mut self, steps: &[Step]) -> impl Future<Output = Result<(), SinkError>> + Send {
        async move {
            for step in steps {
                self.apply(step).await?;
            }
            Ok(())
        }
    }

    /// Hands steps over to the target without waiting until they are durable: they are a flight, and
    /// [`landed`](Self::landed) tells of the oldest one. Only steps of appended rows are launched, and no more than
    /// `FLIGHTS_MAX` flights at once.
    ///
    /// After an error of `launch` or `landed` every flight, and the one that could not be launched, is given to
    /// [`apply_all`](Self::apply_all), the oldest first. What of it was handed over must neither be doubled by that nor be
    /// overtaken by what belongs to a later flight.
    fn launch(&mut self, steps: &[Step]) -> impl Future<Output = Result<(), SinkError>> + Send {
        self.apply_all(steps)
    }

    /// Returns once the oldest flight is durable, which then is one no longer; at once if there is none. May be dropped at any
    /// point and called anew.
    fn landed(&mut self) -> impl Future<Output = Result<(), SinkError>> + Send {
        std::future::ready(Ok(()))
    }
}
