//! `unnest(list)`: a row once for each element of a list.
//!
//! Invariant: as in DataFusion, of several lists in one SELECT the longest counts and nulls follow the shorter ones; a row whose lists
//! are empty or null is left out.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::NullHandling;
use datafusion::error::Result;
use datafusion::logical_expr::Unnest;

use super::express::place;
use super::lower::{lower, map, refused};
use super::{Inputs, Node, Op};

/// Most elements of one row's list.
pub const ELEMENTS_MAX: usize = 1_000;

/// The operator of an `unnest`.
pub fn unnest(unnest: &Unnest, inputs: &Inputs) -> Result<Arc<Node>> {
    if !unnest.struct_type_columns.is_empty() {
        return Err(refused("unnest of a struct: write the fields that you want, as in s['name']"));
    }
    let chosen = &unnest.dependency_indices;
    let is_list = |column: &usize| unnest.list_type_columns.iter().any(|(list, _)| list == column);
    let lists: Vec<usize> = (0..chosen.len()).filter(|at| is_list(&chosen[*at])).collect();
    if lists.len() != unnest.list_type_columns.len() || unnest.list_type_columns.iter().any(|(_, list)| list.depth != 1)
    {
        return Err(refused(
            "unnest of lists in lists at once: unnest the outer list in a subquery, and its elements around it",
        ));
    }
    if unnest.options.null_handling != NullHandling::Drop {
        return Err(refused("unnest that keeps rows without elements: add them by UNION ALL"));
    }
    let input = lower(&unnest.input, inputs)?;
    let input = map(input, None, Some(chosen.iter().map(|column| place(*column)).collect()))?;
    let kinds: Vec<DataType> = unnest.schema.fields().iter().map(|field| field.data_type().clone()).collect();
    let (kind, append_only) = (input.kind, input.append_only);
    Ok(Node::new(Op::Unnest { input, lists }, &kinds, kind, append_only, None))
}
