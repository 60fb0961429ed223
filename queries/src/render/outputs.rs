//! What an operator gives out: rows, and the faults of those that have none.
//!
//! Invariant: the second output is always that of faults, at ticks of their rows.

use differential_dataflow::AsCollection;
use operators::row::{Diff, Row};
use operators::time::Tick;
use timely::Container;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::Table;

/// Rows that come and go at ticks.
pub type Updates<D = Row> = Vec<(D, Tick, Diff)>;

/// Both outputs of an operator.
pub struct Outputs<C: Container + Clone + 'static> {
    rows: OutputBuilder<Tick, CapacityContainerBuilder<C>>,
    faults: OutputBuilder<Tick, CapacityContainerBuilder<Updates>>,
}

impl<C: Container + Clone + 'static> Outputs<C> {
    /// Adds the outputs to an operator that is being built: first rows, then faults.
    pub fn add<'s>(builder: &mut OperatorBuilder<'s, Tick>) -> (Self, Stream<'s, Tick, C>, Table<'s>) {
        let (rows_output, rows) = builder.new_output();
        let (fault_output, faults) = builder.new_output();
        let outputs = Self { rows: OutputBuilder::from(rows_output), faults: OutputBuilder::from(fault_output) };
        (outputs, rows, faults.as_collection())
    }

    /// Gives rows out.
    pub fn rows(&mut self, held: &Capability<Tick>, mut rows: C) {
        if !rows.is_empty() {
            self.rows.activate().session(held).give_container(&mut rows);
        }
    }

    /// Gives faults out.
    pub fn faults(&mut self, held: &Capability<Tick>, mut faults: Updates) {
        if !faults.is_empty() {
            self.faults.activate().session(held).give_container(&mut faults);
        }
    }
}
