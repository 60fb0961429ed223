//! Parts of plans that other plans have too.
//!
//! Invariant: what stands in for a part has the same columns, kind and rows as the part.

use std::sync::Arc;

use super::bounds::with;
use super::{Id, Kind, Meets, Node, Op, types};

/// The plan with every part that `known` names read from there.
#[must_use]
pub fn substitute(node: &Arc<Node>, known: &dyn Fn(&Node) -> Option<String>) -> Arc<Node> {
    if let Some(name) = known(node) {
        return stand_in(node, &name);
    }
    let inputs = node.inputs().into_iter().map(|input| substitute(input, known)).collect();
    with(node, inputs, None)
}

/// The plan with its sources, tables and views read by other names.
#[must_use]
pub fn renamed(node: &Arc<Node>, name_of: &dyn Fn(&str) -> String) -> Arc<Node> {
    substitute(node, &|node| match &node.op {
        Op::Get(name) => Some(name_of(name)),
        _ => None,
    })
}

/// The plan with what it reads replaced by other plans.
#[must_use]
pub fn inlined(node: &Arc<Node>, plan_of: &dyn Fn(&str) -> Option<Arc<Node>>) -> Arc<Node> {
    if let Op::Get(name) = &node.op {
        return plan_of(name).unwrap_or_else(|| node.clone());
    }
    let inputs = node.inputs().into_iter().map(|input| inlined(input, plan_of)).collect();
    with(node, inputs, None)
}

fn stand_in(node: &Node, name: &str) -> Arc<Node> {
    Node::new(Op::Get(name.to_owned()), &types(&node.schema), node.kind, node.append_only, node.rows_max)
}

/// Parts worth sharing: they keep something, and their rows are a table.
#[must_use]
pub fn shareable(node: &Arc<Node>) -> Vec<(Id, Arc<Node>)> {
    let mut parts = Vec::new();
    let mut see = vec![node.clone()];
    while let Some(node) = see.pop() {
        see.extend(node.inputs().into_iter().cloned());
        let keeps = matches!(
            node.op,
            Op::Join(_)
                | Op::Reduce { .. }
                | Op::Sessions { .. }
                | Op::Journeys { .. }
                | Op::Geofences { .. }
                | Op::TopK { .. }
                | Op::Window { .. }
                | Op::Temporal { .. }
        );
        // What has become of events is final after a time, and not taken back: as a stream of its own it would hold them for ever.
        let of_events =
            matches!(&node.op, Op::Join(join) if matches!(join.meets, Meets::Corrected { .. } | Meets::Within(_)));
        if keeps && node.kind == Kind::Table && !of_events {
            parts.push((node.id, node));
        }
    }
    parts
}
