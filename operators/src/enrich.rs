//! The lookup join of events with the links of vehicles: each event gets the references as they stood when it arrived, and
//! later changes do not touch it. Events are never arranged: one waits only until the links are complete up to its tick.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::CapabilitySet;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::batch::{Batch, TICK, by_key, u64s};
use crate::changes::Changes;
use crate::counters::{Counters, add};
use crate::device_links::DeviceLinks;
use crate::devices::{Devices, numbers};
use crate::record::output;
use crate::string_table::NO_SLOT;
use crate::time::{Tick, closed_before};

/// Joins `events` (with the owners of their devices) with `links` (columns of [`output::links`], any distribution), of which
/// the columns `wanted` are added.
///
/// An event at tick T sees the changes with ticks before T. Where several vehicles claim one device, the event goes to the
/// one with the smallest id; where none does, the added columns are null.
pub fn enrich<'s>(
    events: Stream<'s, Tick, Batch>,
    links: Stream<'s, Tick, Batch>,
    wanted: &[&str],
    devices: &Devices,
    counters: Counters,
) -> Stream<'s, Tick, Batch> {
    let mut builder = OperatorBuilder::new("Enrich".into(), events.scope());
    let mut events = builder.new_input(events, Pipeline);
    let mut links = builder.new_input(links, by_key("device_id"));
    let (output, enriched) = builder.new_output();
    let mut output: OutputBuilder<Tick, CapacityContainerBuilder<Batch>> = OutputBuilder::from(output);
    let (table, schema) = (DeviceLinks::new(wanted, devices), output::enriched_with(wanted));
    builder.build(move |mut capabilities| {
        let mut held = CapabilitySet::from_elem(capabilities.pop().expect("one output, one capability"));
        let mut join = Join { table, schema, changes: Changes::default(), waiting: Vec::new(), counters };
        move |frontiers| {
            events.for_each(|_, batch| join.waiting.extend(batch.take()));
            links.for_each(|_, batch| join.stash(batch));
            let frontier = |input: usize| closed_before(frontiers[input].frontier());
            let (event_frontier, link_frontier) = (frontier(0), frontier(1));
            let ready = join.advance(event_frontier, link_frontier);
            if !ready.is_empty() {
                let mut output = output.activate();
                let mut session = output.session(&held[0]);
                for rows in ready {
                    session.give_container(&mut rows.into());
                }
            }
            let waiting = join.waiting.iter().map(|rows| u64s(rows, TICK).value(0)).min().unwrap_or(Tick::MAX);
            match waiting.min(event_frontier) {
                Tick::MAX => held.downgrade(&[] as &[Tick]),
                upto => held.downgrade([upto]),
            }
        }
    });
    enriched
}

struct Join {
    table: DeviceLinks,
    schema: SchemaRef,
    /// Changes of the links not yet applied.
    changes: Changes<RecordBatch>,
    /// Events not yet looked up.
    waiting: Vec<RecordBatch>,
    counters: Counters,
}

impl Join {
    fn stash(&mut self, batch: &mut Batch) {
        if let Some(rows) = batch.take() {
            let ticks = u64s(&rows, TICK).values().clone();
            self.changes.push(rows, &ticks);
        }
    }

    /// Looks up every event that may be looked up, applying changes in between.
    fn advance(&mut self, event_frontier: Tick, link_frontier: Tick) -> Vec<RecordBatch> {
        let mut out = Vec::new();
        loop {
            // Events up to the next change see only what has been applied; later ones need the change first.
            let next = self.changes.first().unwrap_or(Tick::MAX);
            self.look_up(next.min(link_frontier), &mut out);
            // A change may be applied once it is complete and every event that must not see it has been here.
            if next >= link_frontier || next >= event_frontier {
                return out;
            }
            for part in self.changes.take(next) {
                for row in part.rows {
                    self.table.apply(&part.batch, row);
                }
            }
            self.counters.links.set(self.table.len() as u64);
        }
    }

    /// Looks up the waiting events with ticks up to and including `last`.
    fn look_up(&mut self, last: Tick, out: &mut Vec<RecordBatch>) {
        for rows in std::mem::take(&mut self.waiting) {
            let ticks = u64s(&rows, TICK).values();
            match ticks.partition_point(|&tick| tick <= last) {
                0 => self.waiting.push(rows),
                cut if cut == ticks.len() => out.push(self.join(&rows)),
                cut => {
                    out.push(self.join(&rows.slice(0, cut)));
                    self.waiting.push(rows.slice(cut, ticks.len() - cut));
                }
            }
        }
    }

    fn join(&mut self, rows: &RecordBatch) -> RecordBatch {
        let slots: Vec<u32> = numbers(rows).iter().map(|&device| self.table.vehicle_of(device)).collect();
        add(&self.counters.unknown_devices, slots.iter().filter(|&&slot| slot == NO_SLOT).count());
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        columns.extend_from_slice(rows.columns());
        columns.extend(self.table.texts.gather(&slots));
        RecordBatch::try_new(self.schema.clone(), columns).expect("the columns of telemetry and those added")
    }
}
