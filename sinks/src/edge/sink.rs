//! The edge as a sink: every step goes into the current state, and from there to whoever watches.

use std::sync::Arc;

use hashbrown::HashMap;
use operators::time::Tick;

use super::context::Context;
use super::message::STREAM;
use crate::memory::{Incoming, RowEncoder, Rows as Bound};
use crate::step::{Rows, Sink, SinkError, Step};

/// Rows taken in under one lock.
const LOCKED_ROWS: usize = 512;

/// The sink. It holds what it was given only as long as the process lives, so after a start it has nothing applied.
pub struct EdgeSink {
    context: Arc<Context>,
    encoder: RowEncoder,
    incoming: Vec<Incoming>,
    applied: HashMap<usize, Tick>,
}

impl EdgeSink {
    pub(super) fn new(context: Arc<Context>, encoder: RowEncoder) -> Self {
        Self { context, encoder, incoming: Vec::new(), applied: HashMap::new() }
    }

    async fn take_in(&mut self, rows: &arrow::array::RecordBatch) -> Result<(), SinkError> {
        let bound = Bound::bind(self.encoder.layout(), rows).map_err(|mismatch| refused(mismatch.to_string()))?;
        for start in (0..rows.num_rows()).step_by(LOCKED_ROWS) {
            let end = (start + LOCKED_ROWS).min(rows.num_rows());
            self.encoder.encode(&bound, start..end, &mut self.incoming);
            self.context.hub.take_in(self.incoming.drain(..));
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

fn refused(why: String) -> SinkError {
    SinkError::Refused { target: "edge".to_owned(), why }
}

impl Sink for EdgeSink {
    fn name(&self) -> &'static str {
        "edge"
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    async fn applied(&mut self, stream: &'static str, worker: usize) -> Result<Option<Tick>, SinkError> {
        // It begins with nothing in every process.
        Ok(Some(self.applied.get(&worker).copied().filter(|_| stream == STREAM).unwrap_or(0)))
    }

    async fn apply(&mut self, step: &Step) -> Result<(), SinkError> {
        if step.stream != STREAM {
            return Err(refused(format!("stream {} is not {STREAM}", step.stream)));
        }
        for rows in &step.rows {
            match rows {
                Rows::Upsert(rows) => self.take_in(rows).await?,
                Rows::Append(_) => return Err(refused(format!("appended rows of {STREAM}, which is a table"))),
            }
        }
        self.applied.insert(step.worker, step.upto);
        let (rows, bytes) = self.context.hub.size();
        self.context.figures.state_rows.set(rows as f64);
        self.context.figures.state_bytes.set(bytes as f64);
        Ok(())
    }
}
