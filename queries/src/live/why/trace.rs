//! The operators of a plan with what each has to do with a key, over inputs from which everything else is left out.
//!
//! Invariant: what is built computes for the key what the plan computes.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::error::Result;
use datafusion::physical_expr::utils::collect_columns;

use crate::plan::lineage::{Condition, Wanted, below, get, over};
use crate::plan::{Expression, Kind, Node, Op};

/// Most operators that are followed.
pub const STEPS_MAX: usize = 1_000;

/// One operator.
#[derive(Debug)]
pub struct Step {
    /// As it was declared.
    pub node: Arc<Node>,
    /// Over what is needed only.
    pub built: Arc<Node>,
    /// For rows of the key all of these hold.
    pub rows: Vec<Condition>,
    /// Columns that are used above; none for all.
    pub used: Option<BTreeSet<usize>>,
    /// Where it reads: which of the gates.
    pub gate: Option<usize>,
    pub inputs: Vec<Step>,
}

/// The way of one source into what is built.
#[derive(Clone, Debug)]
pub struct Gate {
    /// What the plan that is built calls it.
    pub input: String,
    /// What is read.
    pub name: String,
    pub kind: Kind,
    pub schema: datafusion::arrow::datatypes::SchemaRef,
    /// Rows for which one of these does not hold stay outside.
    pub needed: Vec<Condition>,
}

/// A plan that is followed.
#[derive(Debug)]
pub struct Trace {
    pub root: Step,
    pub gates: Vec<Gate>,
}

/// Follows these conditions on the rows of a plan down to what it reads; none if it has too many operators.
///
/// # Errors
/// None that a plan can cause.
pub fn trace(node: &Arc<Node>, conditions: Vec<Condition>) -> Result<Option<Trace>> {
    let mut steps = 0;
    node.visit(&mut |_| steps += 1);
    if steps > STEPS_MAX {
        return Ok(None);
    }
    let mut gates = Vec::new();
    let root = step(node, Wanted::of(conditions), None, &mut gates)?;
    Ok(Some(Trace { root, gates }))
}

fn step(node: &Arc<Node>, wanted: Wanted, used: Option<BTreeSet<usize>>, gates: &mut Vec<Gate>) -> Result<Step> {
    if let Op::Get(name) = &node.op {
        let (gate, built) = enter(node, name, wanted.needed, gates);
        return Ok(Step { node: node.clone(), built, rows: wanted.rows, used, gate: Some(gate), inputs: Vec::new() });
    }
    let uses = uses(node, used.as_ref());
    let wanted_below = below(node, &wanted)?;
    let inputs = node.inputs().into_iter().zip(wanted_below).zip(uses);
    let inputs = inputs.map(|((input, wanted), used)| step(input, wanted, used, gates)).collect::<Result<Vec<_>>>()?;
    let built = over(node, inputs.iter().map(|input| input.built.clone()).collect());
    Ok(Step { node: node.clone(), built, rows: wanted.rows, used, gate: None, inputs })
}

/// One gate for all who want the same of the same.
fn enter(node: &Node, name: &str, needed: Vec<Condition>, gates: &mut Vec<Gate>) -> (usize, Arc<Node>) {
    let same = |gate: &Gate| gate.name == name && format!("{:?}", gate.needed) == format!("{needed:?}");
    let at = gates.iter().position(same).unwrap_or_else(|| {
        let input = format!("{name}#{}", gates.len());
        let (kind, schema) = (node.kind, node.schema.clone());
        gates.push(Gate { input, name: name.to_owned(), kind, schema, needed });
        gates.len() - 1
    });
    (at, get(node, &gates[at].input))
}

fn of<'a>(expressions: impl IntoIterator<Item = &'a Expression>) -> BTreeSet<usize> {
    expressions.into_iter().flat_map(|one| collect_columns(one).into_iter().map(|column| column.index())).collect()
}

/// Which columns of its inputs a node uses for those of its own.
fn uses(node: &Node, used: Option<&BTreeSet<usize>>) -> Vec<Option<BTreeSet<usize>>> {
    use JoinType::{RightAnti, RightMark, RightSemi};
    let is_used = |place: usize| used.is_none_or(|used| used.contains(&place));
    match &node.op {
        Op::Map { filter, project, .. } => {
            let projected = project.iter().enumerate().filter(|(place, _)| is_used(*place)).map(|(_, one)| one);
            vec![Some(of(projected.chain(filter)))]
        }
        Op::Join(join) => {
            let width = join.left.schema.fields().len();
            let right_alone = matches!(join.kind, RightSemi | RightAnti | RightMark);
            let shift = if right_alone { width } else { 0 };
            let all = node.schema.fields().len();
            let out = (0..all).filter(|place| is_used(*place)).map(|place| place + shift);
            let both: BTreeSet<usize> = out.chain(of(&join.filter)).collect();
            let left = both.iter().copied().filter(|place| *place < width);
            let right = both.iter().filter(|place| **place >= width).map(|place| place - width);
            let right = right.filter(|place| *place < join.right.schema.fields().len());
            let left = left.chain(of(join.on.iter().map(|on| &on.0))).collect();
            let right = right.chain(of(join.on.iter().map(|on| &on.1))).collect();
            vec![Some(left), Some(right)]
        }
        Op::TopK { partition, order, .. } => {
            let own = of(partition.iter().chain(order.iter().map(|(by, _)| by)));
            vec![used.map(|used| used.union(&own).copied().collect())]
        }
        Op::Temporal { bounds, .. } => {
            let own = of(bounds.iter().map(|bound| &bound.at));
            vec![used.map(|used| used.union(&own).copied().collect())]
        }
        Op::Union(inputs) => vec![used.cloned(); inputs.len()],
        _ => vec![None; node.inputs().len()],
    }
}
