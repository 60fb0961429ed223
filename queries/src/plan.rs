//! Plans of derived streams: what DataFusion understood of the SQL, as the operators that keep it up to date.
//!
//! Invariant: a node's id tells what it computes and nothing else (names of tables' columns and aliases do not matter), so
//! equal ids are equal work, now and after a restart.

mod aggregate;
mod bounds;
mod call;
mod express;
mod geofences;
mod hop;
mod join;
mod journeys;
pub(crate) mod lineage;
mod lower;
mod meet;
mod push;
mod refuse;
mod session;
mod sessions;
mod share;
mod silence;
mod state;
mod tell;
mod temporal;
mod unnest;
mod window;

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::JoinType;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::window::WindowExpr;
use operators::geofences::Rules as FenceRules;
use operators::journeys::Rules;
use operators::row::Codec;

pub use bounds::{Columns, bounded};
pub(crate) use express::place;
pub use journeys::Journey;
pub use lower::lower;
pub use meet::{Meets, Times, Within};
pub use refuse::{refusal, unknown_name};
pub(crate) use session::now_type;
pub use session::{Inputs, plan_sql, session};
pub use share::{inlined, renamed, shareable, substitute};
pub use state::{Kept, state};
pub use tell::{Names, physical, spoken};
pub(crate) use tell::{bound as told_bound, columns, text, told as told_operator};
pub(crate) use unnest::ELEMENTS_MAX;

/// An expression over the columns of a node.
pub type Expression = Arc<dyn PhysicalExpr>;

/// What a node computes, as a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u128);

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", (self.0 >> 96) as u32)
    }
}

/// What a node's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They only come, and are not kept.
    Events,
    /// They come and go.
    Table,
}

/// One operator of a plan.
#[derive(Debug)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// Its columns, named by their places.
    pub schema: SchemaRef,
    /// What it computes.
    pub id: Id,
    /// What its rows are.
    pub kind: Kind,
    /// Whether no row ever leaves.
    pub append_only: bool,
    /// Most rows it can have, if the plan tells.
    pub rows_max: Option<usize>,
}

/// The operators.
#[derive(Debug)]
pub enum Op {
    /// A source, a table or another view.
    Get(String),
    /// Rows that stand in the text.
    Constant(RecordBatch),
    /// Filter first, then project.
    Map {
        /// Its input.
        input: Arc<Node>,
        /// Rows for which it is true stay.
        filter: Option<Expression>,
        /// The columns that come out.
        project: Vec<Expression>,
    },
    /// Two inputs by equal keys.
    Join(Join),
    /// Groups by the first columns, aggregates over the others.
    Reduce {
        /// Its input: keys, then what the aggregates take.
        input: Arc<Node>,
        /// How many columns are keys.
        keys: usize,
        /// What is computed of each group; without any the groups themselves are the result.
        aggregates: Vec<Aggregate>,
        /// When groups leave.
        retention: Option<Retention>,
    },
    /// The first rows of each group.
    TopK {
        /// Its input.
        input: Arc<Node>,
        /// Columns that make a group.
        partition: Vec<Expression>,
        /// Their order within the group; equal rows by their bytes.
        order: Vec<(Expression, SortOptions)>,
        /// Rows left out at the start.
        skip: usize,
        /// Rows taken after them.
        fetch: usize,
    },
    /// Window functions over each group, added as columns.
    Window {
        /// Its input.
        input: Arc<Node>,
        /// Columns that make a group.
        partition: Vec<Expression>,
        /// Order within the group; equal rows by their bytes.
        order: Vec<(Expression, SortOptions)>,
        /// The functions.
        functions: Vec<Arc<dyn WindowExpr>>,
    },
    /// The last column is a time: each row once for each window that it is in, with the window's start in its place.
    Hop {
        /// Its input.
        input: Arc<Node>,
        /// From the start of one window to that of the next.
        slide_ms: i64,
        /// From the start of a window to its end.
        size_ms: i64,
    },
    /// Groups by the first columns and by sessions; what comes out are these columns, the start of the session, and the
    /// aggregates.
    Sessions {
        /// Its input: keys, the time, then what the aggregates take.
        input: Arc<Node>,
        /// How many columns are keys.
        keys: usize,
        /// Longest time between two rows of a session.
        gap_ms: i64,
        /// What is computed of each session. Their places count from the time.
        aggregates: Vec<Aggregate>,
        /// When sessions leave.
        retention: Option<Retention>,
    },
    /// Stops or trips of vehicles.
    Journeys {
        /// Its input: the vehicle, the time, the device's counter, the position and the speed.
        input: Arc<Node>,
        /// What comes out.
        what: Journey,
        /// When a vehicle stands.
        rules: Rules,
        /// When they leave.
        retention: Option<Retention>,
    },
    /// Vehicles enter fences, stay and leave.
    Geofences {
        /// The vehicle, the time, the device's counter, the position and the company.
        positions: Arc<Node>,
        /// The company, the id, the name, the kind, the shape and the radius.
        fences: Arc<Node>,
        /// What counts, and how long it is kept.
        rules: FenceRules,
    },
    /// Each row once for each element of its lists, with the elements in their place.
    Unnest {
        /// Its input.
        input: Arc<Node>,
        /// Which columns are lists.
        lists: Vec<usize>,
    },
    /// All rows of all inputs.
    Union(Vec<Arc<Node>>),
    /// Rows are there between two times.
    Temporal {
        /// Its input.
        input: Arc<Node>,
        /// Where each begins and ends.
        bounds: Vec<Bound>,
    },
}

/// How long groups are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Which key column is their time.
    pub key: usize,
    /// For how many milliseconds after it they can still be corrected.
    pub ms: i64,
}

/// A comparison of `now()` with an expression.
#[derive(Clone, Debug)]
pub struct Bound {
    /// A timestamp.
    pub at: Expression,
    /// Whether rows leave at it rather than come.
    pub until: bool,
    /// Whether they are still (or already) there at that very time.
    pub including: bool,
}

/// A join.
#[derive(Clone, Debug)]
pub struct Join {
    /// Left input.
    pub left: Arc<Node>,
    /// Right input.
    pub right: Arc<Node>,
    /// Pairs of expressions, over the left and over the right columns, that are equal.
    pub on: Vec<(Expression, Expression)>,
    /// What else holds for a pair, over left and then right columns.
    pub filter: Option<Expression>,
    /// What comes out of it.
    pub kind: JoinType,
    /// Whether null equals null.
    pub nulls_equal: bool,
    /// NOT IN: a null on the right side leaves nothing.
    pub null_aware: bool,
    /// At which times.
    pub meets: Meets,
}

/// One aggregate of a [`Op::Reduce`] or [`Op::Sessions`]. Places count from the first column after the keys.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// The function.
    pub function: Arc<AggregateFunctionExpr>,
    /// Where its arguments are.
    pub arguments: Vec<usize>,
    /// Where its ORDER BY is.
    pub order: Vec<(usize, SortOptions)>,
    /// Where its FILTER is.
    pub filter: Option<usize>,
}

impl Node {
    /// Inputs of the node.
    #[must_use]
    pub fn inputs(&self) -> Vec<&Arc<Node>> {
        match &self.op {
            Op::Get(_) | Op::Constant(_) => Vec::new(),
            Op::Map { input, .. }
            | Op::Reduce { input, .. }
            | Op::TopK { input, .. }
            | Op::Window { input, .. }
            | Op::Hop { input, .. }
            | Op::Sessions { input, .. }
            | Op::Journeys { input, .. }
            | Op::Unnest { input, .. }
            | Op::Temporal { input, .. } => vec![input],
            Op::Join(join) => vec![&join.left, &join.right],
            Op::Geofences { positions, fences, .. } => vec![positions, fences],
            Op::Union(inputs) => inputs.iter().collect(),
        }
    }

    /// Names of all sources, tables and views below.
    #[must_use]
    pub fn reads(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.visit(&mut |node| {
            if let Op::Get(name) = &node.op {
                names.push(name.as_str());
            }
        });
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Calls `see` with this node and all below.
    pub fn visit<'a>(&'a self, see: &mut impl FnMut(&'a Node)) {
        see(self);
        for input in self.inputs() {
            input.visit(see);
        }
    }

    pub(crate) fn new(op: Op, types: &[DataType], kind: Kind, append_only: bool, rows_max: Option<usize>) -> Arc<Node> {
        let schema = canonical(types);
        let id = identify(&op, &schema);
        Arc::new(Node { op, schema, id, kind, append_only, rows_max })
    }
}

/// A schema whose columns are named by their places.
pub(crate) fn canonical(types: &[DataType]) -> SchemaRef {
    let field = |(index, kind): (usize, &DataType)| Field::new(format!("c{index}"), kind.clone(), true);
    Arc::new(Schema::new(types.iter().enumerate().map(field).collect::<Vec<_>>()))
}

/// Types of a schema's columns.
pub(crate) fn types(schema: &Schema) -> Vec<DataType> {
    schema.fields().iter().map(|field| field.data_type().clone()).collect()
}

/// All values of a batch: its `Debug` leaves out those in the middle of a long one.
fn whole(rows: &RecordBatch) -> String {
    let codec = Codec::new(canonical(&types(&rows.schema())));
    let encoded = codec.and_then(|codec| codec.encode(rows.columns(), rows.num_rows()));
    encoded.map_or_else(
        |_| format!("{rows:?}"),
        |rows| rows.iter().map(|row| format!("{:?} ", row.bytes())).collect::<String>(),
    )
}

/// What aggregates compute, as text.
fn told(aggregates: &[Aggregate]) -> Vec<String> {
    let told = |aggregate: &Aggregate| {
        let Aggregate { function, arguments, order, filter } = aggregate;
        let (name, field) = (function.fun().name(), function.field());
        let (distinct, nulls) = (function.is_distinct(), function.ignore_nulls());
        let given = function.expressions();
        let kind = field.data_type();
        format!("{name} {kind:?} {distinct} {nulls} {given:?} {arguments:?} {order:?} {filter:?}")
    };
    aggregates.iter().map(told).collect()
}

/// The hash of the operator, with its inputs by their ids.
fn identify(op: &Op, schema: &SchemaRef) -> Id {
    let what = match op {
        Op::Get(name) => format!("get {name}"),
        Op::Constant(rows) => format!("constant {}", whole(rows)),
        Op::Map { input, filter, project } => format!("map {:?} {filter:?} {project:?}", input.id.0),
        Op::Join(join) => {
            let Join { left, right, on, filter, kind, nulls_equal, null_aware, meets } = join;
            let (left, right) = (left.id.0, right.id.0);
            format!("join {left} {right} {on:?} {filter:?} {kind:?} {nulls_equal} {null_aware} {meets:?}")
        }
        Op::Reduce { input, keys, aggregates, retention } => {
            format!("reduce {} {keys} {:?} {retention:?}", input.id.0, told(aggregates))
        }
        Op::Hop { input, slide_ms, size_ms } => format!("hop {} {slide_ms} {size_ms}", input.id.0),
        Op::Journeys { input, what, rules, retention } => {
            format!("journeys {} {what:?} {rules:?} {retention:?}", input.id.0)
        }
        Op::Geofences { positions, fences, rules } => {
            format!("geofences {} {} {rules:?}", positions.id.0, fences.id.0)
        }
        Op::Sessions { input, keys, gap_ms, aggregates, retention } => {
            format!("sessions {} {keys} {gap_ms} {:?} {retention:?}", input.id.0, told(aggregates))
        }
        Op::TopK { input, partition, order, skip, fetch } => {
            format!("top {} {partition:?} {order:?} {skip} {fetch}", input.id.0)
        }
        Op::Window { input, partition, order, functions } => {
            let told: Vec<String> = functions.iter().map(window::told).collect();
            format!("window {} {partition:?} {order:?} {told:?}", input.id.0)
        }
        Op::Unnest { input, lists } => format!("unnest {} {lists:?}", input.id.0),
        Op::Union(inputs) => format!("union {:?}", inputs.iter().map(|input| input.id.0).collect::<Vec<_>>()),
        Op::Temporal { input, bounds } => format!("temporal {} {bounds:?}", input.id.0),
    };
    Id(xxhash_rust::xxh3::xxh3_128(format!("{what} {:?}", types(schema)).as_bytes()))
}
