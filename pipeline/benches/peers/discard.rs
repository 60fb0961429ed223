//! The sink that makes JSON of every row and throws it away.

use std::collections::BTreeMap;
use std::hint::black_box;

use operators::time::Tick;
use sinks::json::{Encoder, Nulls, Text};
use sinks::{Sink, SinkError, Step};

/// Keeps nothing but the encoder of each stream.
#[derive(Default)]
pub struct Discard {
    encoders: BTreeMap<&'static str, Encoder>,
    text: Text,
}

impl Sink for Discard {
    fn name(&self) -> &'static str {
        "discard"
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    async fn applied(&mut self, _: &'static str, _: usize) -> Result<Option<Tick>, SinkError> {
        Ok(None)
    }

    async fn apply(&mut self, step: &Step) -> Result<(), SinkError> {
        for rows in &step.rows {
            let batch = rows.batch();
            let encoder = self.encoders.entry(step.stream).or_insert_with(|| {
                Encoder::new(batch.schema_ref(), Nulls::Omitted, &[]).expect("a stream that has a JSON form")
            });
            let rows = encoder.rows(batch);
            for row in 0..batch.num_rows() {
                self.text.clear();
                rows.write(row, &mut self.text);
                black_box(self.text.as_bytes());
            }
        }
        Ok(())
    }
}
