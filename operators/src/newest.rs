//! Turns a raw changelog into changes of a table: of each key and tick the newest record stays, and the rows are spread by key.
//! Keeps no table; what waits is bounded by what arrived in ticks that are still open.

use std::sync::Arc;

use arrow::array::{RecordBatch, StringViewArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::row::Rows;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::operators::generic::operator::Operator;

use crate::batch::{Batch, HASH, TICK, by_key, strings, u64s};
use crate::pending::{Closed, Pending};
use crate::row::Codec;
use crate::time::{Tick, closed_before};

/// The last change of each key within each tick, in the order of ticks and keys. `key` is the name of the key column.
pub fn newest<'s>(changelog: Stream<'s, Tick, Batch>, key: &'static str) -> Stream<'s, Tick, Batch> {
    last_changes(changelog, key, move |rows| Keys::Text(strings(rows, key).clone()))
}

/// The same of a changelog whose first columns are the key, of any types, and which tells the hash of it.
pub fn newest_of_first<'s>(changelog: Stream<'s, Tick, Batch>, keys: usize) -> Stream<'s, Tick, Batch> {
    let mut codec: Option<Codec> = None;
    last_changes(changelog, HASH, move |rows| {
        let codec = codec.get_or_insert_with(|| {
            let fields = rows.schema().fields()[..keys].to_vec();
            Codec::new(Arc::new(arrow::datatypes::Schema::new(fields))).expect("keys are of types that have an order")
        });
        Keys::Columns(codec.encode_together(&rows.columns()[..keys]).expect("the changelog's columns"))
    })
}

/// Keys of rows, as they are compared.
enum Keys {
    Text(StringViewArray),
    Columns(Rows),
}

impl Keys {
    fn of(&self, row: usize) -> &[u8] {
        match self {
            Keys::Text(texts) => texts.value(row).as_bytes(),
            Keys::Columns(rows) => rows.row(row).data(),
        }
    }
}

fn last_changes<'s>(
    changelog: Stream<'s, Tick, Batch>,
    spread: &'static str,
    mut keys: impl FnMut(&RecordBatch) -> Keys + 'static,
) -> Stream<'s, Tick, Batch> {
    changelog.unary_frontier::<CapacityContainerBuilder<Batch>, _, _, _>(
        by_key(spread),
        "Newest",
        move |capability, _| {
            let mut capability = Some(capability);
            let mut pending = Pending::default();
            move |(input, frontier), output| {
                input.for_each(|_, batch| pending.extend(batch.take()));
                let Some(held) = &mut capability else { return };
                let upto = closed_before(frontier.frontier());
                if upto > *held.time() {
                    if let Some(rows) = last_of_each(&pending.close(upto), &mut keys) {
                        output.session(held).give_container(&mut rows.into());
                    }
                    if upto == Tick::MAX { capability = None } else { held.downgrade(&upto) }
                }
            }
        },
    )
}

fn last_of_each(closed: &Closed, keys: &mut impl FnMut(&RecordBatch) -> Keys) -> Option<RecordBatch> {
    let first = closed.portions.first()?;
    let all = concat_batches(&first.schema(), &closed.portions).expect("portions of one stream");
    let starts: Vec<usize> = closed
        .portions
        .iter()
        .scan(0, |sum, rows| {
            *sum += rows.num_rows();
            Some(*sum - rows.num_rows())
        })
        .collect();
    let order = closed.runs.iter().flat_map(|run| (run.start..run.end).map(|row| starts[run.portion] + row));
    let (keys, ticks) = (keys(&all), u64s(&all, TICK).values());
    let mut rows: Vec<(Tick, &[u8], u32)> = order.map(|row| (ticks[row], keys.of(row), row as u32)).collect();
    // Stable: of equal keys the last in canonical order stays last.
    rows.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    let last = rows.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).filter_map(|same| same.last());
    let indices = UInt32Array::from_iter_values(last.map(|&(_, _, row)| row));
    Some(take_record_batch(&all, &indices).expect("indices lie within the batch"))
}
