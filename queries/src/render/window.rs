//! Window functions: a group that changed is computed anew by DataFusion's own functions.
//!
//! Invariant: rows that are equal in the declared order are taken in the order of their bytes, so the answer is one.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::error::Result;
use datafusion::physical_expr::window::WindowExpr;
use hashbrown::HashMap;
use operators::row::{Codec, Diff, Row, count, repeated};
use operators::time::Tick;

use super::group::{Groups, Out, by_key, difference};
use super::top::{GROUP, Order};
use super::usage::Size;
use crate::plan::{Expression, Node, canonical, types};

pub struct Windows {
    order: Order,
    functions: Vec<Arc<dyn WindowExpr>>,
    /// The columns that are added.
    added: Codec,
    groups: HashMap<Row, Group, foldhash::fast::FixedState>,
    size: Size,
}

#[derive(Default)]
struct Group {
    rows: BTreeMap<(Row, Row), Diff>,
    out: Vec<Row>,
    fault: Option<String>,
}

impl Windows {
    pub fn new(
        node: &Node,
        input: &Node,
        order: &[(Expression, SortOptions)],
        functions: &[Arc<dyn WindowExpr>],
    ) -> Result<Self> {
        let kinds = types(&node.schema).split_off(input.schema.fields().len());
        Ok(Self {
            order: Order::new(input, order)?,
            functions: functions.to_vec(),
            added: Codec::new(canonical(&kinds))?,
            groups: HashMap::default(),
            size: Size::default(),
        })
    }
}

/// The rows of a group with the functions' columns, ordered by their bytes.
fn computed(
    rows: &BTreeMap<(Row, Row), Diff>,
    codec: &Codec,
    functions: &[Arc<dyn WindowExpr>],
    added: &Codec,
) -> Result<Vec<Row>> {
    let all: Vec<&Row> = repeated(rows).map(|(_, row)| row).collect();
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let batch = codec.decode(all.iter().copied())?;
    let columns = functions.iter().map(|function| function.evaluate(&batch)).collect::<Result<Vec<_>>>()?;
    let more = added.encode(&columns, all.len())?;
    let mut out: Vec<Row> = all.iter().zip(&more).map(|(row, more)| row.and(more)).collect();
    out.sort_unstable();
    Ok(out)
}

impl Groups for Windows {
    fn change(&mut self, _: Tick, changes: &[((Row, Row), Diff)], out: &mut Out) {
        let places = self.order.places(changes.iter().map(|((_, row), _)| row)).expect("columns of the plan");
        let mut places = places.into_iter();
        for run in by_key(changes) {
            let key = &run[0].0.0;
            let group = self.groups.entry_ref(key).or_default();
            for (((_, row), diff), place) in run.iter().zip(&mut places) {
                let size = Size::of_pair(&place, row);
                self.size += size * count(&mut group.rows, (place, row.clone()), *diff);
            }
            let (new, fault) = match computed(&group.rows, self.order.codec(), &self.functions, &self.added) {
                Ok(new) => (new, None),
                Err(why) => (Vec::new(), Some(why.strip_backtrace())),
            };
            difference(&group.out, &new, out);
            out.fault("Window", group.fault.as_deref(), fault.as_deref());
            self.size += bytes(&new);
            self.size -= bytes(&group.out);
            (group.out, group.fault) = (new, fault);
            if group.rows.is_empty() {
                self.groups.remove(key);
            }
        }
    }

    fn size(&self) -> Size {
        self.size + GROUP * self.groups.len() as Diff
    }
}

/// Results are longer copies of rows that are counted already.
fn bytes(rows: &[Row]) -> Size {
    Size::bytes(rows.iter().map(|row| Size::of(row).bytes).sum())
}
