//! Columns under the names that the comparison's own check reads, and of the events only those that the query asks for.

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema};
use operators::time::Tick;
use sinks::{Rows, Sink, SinkError, Step};

/// Our name and the workload's.
const NAMES: [(&str, &str); 3] = [("fixes", "cnt"), ("average_speed_kmh", "avg_speed"), ("since", "offline_since")];

/// A sink behind other names.
pub struct Renamed<S> {
    sink: S,
}

impl<S> Renamed<S> {
    /// `sink`, which is given the workload's names.
    pub fn new(sink: S) -> Self {
        Self { sink }
    }
}

impl<S: Sink> Sink for Renamed<S> {
    const FLIGHTS_MAX: usize = S::FLIGHTS_MAX;

    fn name(&self) -> &'static str {
        self.sink.name()
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        self.sink.open().await
    }

    async fn applied(&mut self, stream: &'static str, worker: usize) -> Result<Option<Tick>, SinkError> {
        self.sink.applied(stream, worker).await
    }

    async fn apply(&mut self, step: &Step) -> Result<(), SinkError> {
        self.sink.apply(&renamed(step)).await
    }

    async fn apply_all(&mut self, steps: &[Step]) -> Result<(), SinkError> {
        self.sink.apply_all(&steps.iter().map(renamed).collect::<Vec<_>>()).await
    }

    async fn launch(&mut self, steps: &[Step]) -> Result<(), SinkError> {
        self.sink.launch(&steps.iter().map(renamed).collect::<Vec<_>>()).await
    }

    async fn landed(&mut self) -> Result<(), SinkError> {
        self.sink.landed().await
    }
}

fn renamed(step: &Step) -> Step {
    let rows = step.rows.iter().map(|rows| match rows {
        Rows::Append(batch) => Rows::Append(columns(batch)),
        Rows::Upsert(batch) => Rows::Upsert(columns(batch)),
    });
    Step { rows: rows.collect(), ..step.clone() }
}

fn columns(batch: &RecordBatch) -> RecordBatch {
    let batch = offline(batch);
    let field = |field: &Arc<Field>| match NAMES.iter().find(|(ours, _)| ours == field.name()) {
        Some((_, theirs)) => Arc::new(field.as_ref().clone().with_name(*theirs)),
        None => field.clone(),
    };
    let fields: Vec<Arc<Field>> = batch.schema_ref().fields().iter().map(field).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), batch.columns().to_vec()).expect("the same columns")
}

fn offline(batch: &RecordBatch) -> RecordBatch {
    let Some(kinds) = batch.column_by_name("kind") else { return batch.clone() };
    let mask: BooleanArray = kinds.as_string_view().iter().map(|kind| Some(kind == Some("device.offline"))).collect();
    filter_record_batch(batch, &mask).expect("a mask as long as the batch")
}
