//! Plans as dataflow: each node as one operator, equal nodes once.
//!
//! Invariant: what an operator computes depends on its input alone; at each tick a table holds what DataFusion would answer
//! over the inputs' content at that tick.

mod accumulate;
mod alarms;
mod correct;
pub(crate) mod evaluate;
mod fault;
mod geofences;
mod group;
mod history;
mod hop;
mod join;
mod journeys;
mod lookup;
mod map;
mod outputs;
mod reduce;
mod reduce_events;
mod session_events;
mod sessions;
mod temporal;
mod top;
mod unnest;
mod usage;
mod window;
mod within;

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::error::{DataFusionError, Result};
use differential_dataflow::VecCollection;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::implementations::ValSpine;
use operators::batch::Batch;
use operators::row::{Codec, Diff, Row};
use operators::time::Tick;
use timely::dataflow::{Scope, Stream};

use crate::plan::{Expression, Id, Node, Op};

pub use fault::{Fault, fault_codec};
pub use map::event_schema;
pub(crate) use map::ticks;
pub use usage::{Size, Usage};

/// Rows that come and go.
pub type Table<'s> = VecCollection<'s, Tick, Row, Diff>;
/// Rows by a key.
pub type Keyed<'s> = VecCollection<'s, Tick, (Row, Row), Diff>;
/// The same, kept and shared.
pub type Index<'s> = Arranged<'s, TraceAgent<ValSpine<Row, Row, Tick, Diff>>>;

/// What a node has become.
#[derive(Clone)]
pub enum Rendered<'s> {
    /// Batches of its columns and, last, the tick.
    Events(Stream<'s, Tick, Batch>),
    /// Its rows.
    Table(Table<'s>),
}

/// What is being built in one dataflow.
pub struct Builder<'s> {
    scope: Scope<'s, Tick>,
    inputs: HashMap<String, Rendered<'s>>,
    done: HashMap<Id, Rendered<'s>>,
    indexes: HashMap<(Id, String), Index<'s>>,
    faults: Vec<Table<'s>>,
    usage: Arc<Usage>,
}

impl<'s> Builder<'s> {
    /// Nothing yet but the inputs.
    #[must_use]
    pub fn new(scope: Scope<'s, Tick>, inputs: HashMap<String, Rendered<'s>>) -> Self {
        Self::measured(scope, inputs, Arc::default())
    }

    /// The same; what the operators keep is told there.
    #[must_use]
    pub fn measured(scope: Scope<'s, Tick>, inputs: HashMap<String, Rendered<'s>>, usage: Arc<Usage>) -> Self {
        Self { scope, inputs, done: HashMap::new(), indexes: HashMap::new(), faults: Vec::new(), usage }
    }

    /// The errors of all rows so far (columns of [`fault_codec`]).
    #[must_use]
    pub fn faults(&self) -> Table<'s> {
        differential_dataflow::collection::concatenate(self.scope, self.faults.iter().cloned())
    }

    /// The errors of what [`render`](Self::render) builds of this node, and of nothing that was built before.
    ///
    /// # Errors
    /// As of `render`.
    pub(crate) fn render_alone(&mut self, node: &Arc<Node>) -> Result<(Rendered<'s>, Table<'s>)> {
        let before = self.faults.len();
        let rendered = self.render(node)?;
        let own = self.faults[before..].iter().cloned();
        Ok((rendered, differential_dataflow::collection::concatenate(self.scope, own)))
    }

    /// Builds a plan.
    ///
    /// # Errors
    /// A type that rows cannot have, or an input that is not there.
    pub fn render(&mut self, node: &Arc<Node>) -> Result<Rendered<'s>> {
        if let Some(done) = self.done.get(&node.id) {
            return Ok(done.clone());
        }
        let rendered = self.build(node)?;
        self.done.insert(node.id, rendered.clone());
        Ok(rendered)
    }

    fn build(&mut self, node: &Arc<Node>) -> Result<Rendered<'s>> {
        let table = match &node.op {
            Op::Get(name) => {
                let input = self.inputs.get(name).cloned();
                return input.ok_or_else(|| DataFusionError::Plan(format!("table '{name}' is not there")));
            }
            Op::Constant(rows) => map::constant(self.scope, rows)?,
            Op::Map { input, filter, project } => return self.map(node, input, filter.as_ref(), project),
            Op::Join(join) => return self.join(node, join),
            Op::Reduce { input, keys, aggregates, retention } => self.reduce(input, *keys, aggregates, *retention)?,
            Op::TopK { input, partition, order, skip, fetch } => {
                let top = top::Top::new(input, order, *skip, *fetch)?;
                let keyed = self.keyed_in_order(input, partition, order)?;
                self.group(keyed, "TopK", top)
            }
            Op::Window { input, partition, order, functions } => {
                let windows = window::Windows::new(node, input, order, functions)?;
                let keyed = self.keyed_in_order(input, partition, order)?;
                self.group(keyed, "Window", windows)
            }
            Op::Hop { input, slide_ms, size_ms } => {
                return self.hop(node, input, hop::Hop { slide_ms: *slide_ms, size_ms: *size_ms });
            }
            Op::Sessions { input, keys, gap_ms, aggregates, retention } => {
                self.sessions(input, *keys, *gap_ms, aggregates, *retention)?
            }
            Op::Journeys { input, what, rules, retention } => self.journeys(node, input, *what, *rules, *retention)?,
            Op::Geofences { positions, fences, rules } => self.geofences(node, positions, fences, *rules)?,
            Op::Unnest { input, lists } => return self.unnest(node, input, lists),
            Op::Union(inputs) => return self.union(inputs),
            Op::Temporal { input, bounds } => {
                let table = self.table(input)?;
                let gauge = self.usage.gauge("Temporal");
                let (table, faults) = temporal::temporal(table, &input.schema, bounds, gauge)?;
                self.faults.push(faults);
                table
            }
        };
        Ok(Rendered::Table(table))
    }

    /// The node's rows; events as rows that stay.
    ///
    /// # Errors
    /// As of [`render`](Self::render).
    pub fn table(&mut self, node: &Arc<Node>) -> Result<Table<'s>> {
        Ok(match self.render(node)? {
            Rendered::Table(table) => table,
            Rendered::Events(events) => map::insertions(events, Codec::new(node.schema.clone())?),
        })
    }

    fn union(&mut self, inputs: &[Arc<Node>]) -> Result<Rendered<'s>> {
        let mut events = Vec::new();
        let mut tables = Vec::new();
        let only_events = inputs.iter().all(|input| input.kind == crate::plan::Kind::Events);
        for input in inputs {
            match (only_events, self.render(input)?) {
                (true, Rendered::Events(stream)) => events.push(stream),
                _ => tables.push(self.table(input)?),
            }
        }
        if only_events {
            return Ok(Rendered::Events(timely::dataflow::operators::Concatenate::concatenate(&self.scope, events)));
        }
        Ok(Rendered::Table(differential_dataflow::collection::concatenate(self.scope, tables)))
    }

    /// The node's rows by these expressions.
    pub(crate) fn keyed(&mut self, node: &Arc<Node>, by: &[Expression], nulls: map::Nulls) -> Result<Keyed<'s>> {
        self.keyed_checked(node, by, &[], nulls)
    }

    /// The same, but for rows whose place in this order cannot be computed.
    fn keyed_in_order(
        &mut self,
        node: &Arc<Node>,
        by: &[Expression],
        order: &[(Expression, SortOptions)],
    ) -> Result<Keyed<'s>> {
        let order: Vec<Expression> = order.iter().map(|(by, _)| by.clone()).collect();
        self.keyed_checked(node, by, &order, map::Nulls::Stay)
    }

    fn keyed_checked(
        &mut self,
        node: &Arc<Node>,
        by: &[Expression],
        checks: &[Expression],
        nulls: map::Nulls,
    ) -> Result<Keyed<'s>> {
        let table = self.table(node)?;
        let (keyed, faults) = map::keyed(table, &node.schema, by, checks, nulls)?;
        self.faults.push(faults);
        Ok(keyed)
    }

    /// The same, kept: once for all that want the same node by the same key.
    pub(crate) fn index(&mut self, node: &Arc<Node>, by: &[Expression], nulls: map::Nulls) -> Result<Index<'s>> {
        let name = (node.id, format!("{by:?} {nulls:?}"));
        if let Some(index) = self.indexes.get(&name) {
            return Ok(index.clone());
        }
        let keyed = self.keyed(node, by, nulls)?;
        let keyed = usage::kept(keyed, self.usage.gauge("Join"), |(key, row)| Size::of_pair(key, row));
        let index = keyed.arrange_by_key_named("Index");
        self.indexes.insert(name, index.clone());
        Ok(index)
    }

    pub(crate) fn group(&mut self, keyed: Keyed<'s>, name: &'static str, groups: impl group::Groups) -> Table<'s> {
        let (table, faults) = group::group(keyed, name, groups, self.usage.gauge(name));
        self.faults.push(faults);
        table
    }
}
