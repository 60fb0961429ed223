//! Fences of companies, and when their vehicles enter them, stay and leave.
//!
//! A position is asked of the fences of its vehicle's company as they stand when it arrives: it is inside of a fence, near it
//! (no further from the border than the margin) or outside. A vehicle enters with a position that is inside, and leaves with one
//! that is outside; near it, it stays where it was. Of a fence that was not there when it arrived a position says nothing.
//!
//! Invariant: what is found depends on the positions, on the ticks at which they arrived and on the fences at these ticks, not
//! on the order in which positions came.

mod grid;
mod shape;
mod visits;
mod wkt;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::time::Tick;

use grid::Grid;
pub use shape::{Bounds, Point, Shape};
pub use visits::{At, Changes, Happened, Position, Vehicle, What};
pub use wkt::POINTS_MAX;

/// What counts as leaving and staying, and for how long positions are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// How far from the border a vehicle that was inside has not left.
    pub margin_m: f64,
    /// From which time on it dwells.
    pub dwell_ms: i64,
    /// How late a position may be: for so long after its time positions that come can change what it meant.
    pub late_ms: i64,
    /// How long after its time what happened leaves.
    pub retention_ms: i64,
}

/// Of so many fences at most a position is inside or near: more would be as much work for each of them.
pub const AT_ONCE_MAX: usize = 100;

/// From when until when a fence is there, whatever becomes of its shape and its name.
#[derive(Debug, Default)]
struct Life {
    from: Tick,
    until: Cell<Option<Tick>>,
}

/// A fence as it stands.
#[derive(Debug)]
pub struct Fence {
    /// Whose it is.
    pub company_id: Arc<str>,
    /// Tells it from the others of its company.
    pub fence_id: Arc<str>,
    /// What people call it.
    pub name: Option<Arc<str>>,
    shape: Shape,
    life: Rc<Life>,
}

impl Fence {
    /// Whether a position that arrived then says something of it.
    fn was_there(&self, arrived: Tick) -> bool {
        self.life.from <= arrived && self.life.until.get().is_none_or(|until| arrived < until)
    }

    fn is_gone(&self) -> bool {
        self.life.until.get().is_some()
    }
}

/// What a position says of a fence that it is not outside of.
#[derive(Clone, Debug)]
pub struct Says {
    /// The fence.
    pub fence: Rc<Fence>,
    /// Whether it is inside; if not, near.
    pub inside: bool,
}

/// A position is inside of or near more than [`AT_ONCE_MAX`] fences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// All fences.
#[derive(Debug)]
pub struct Fences {
    margin_m: f64,
    companies: HashMap<Arc<str>, Company, foldhash::fast::FixedState>,
    count: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Company {
    id: Arc<str>,
    numbers: HashMap<Arc<str>, u32, foldhash::fast::FixedState>,
    /// By number.
    fences: Vec<Option<Rc<Fence>>>,
    free: Vec<u32>,
    grid: Grid,
}

/// About what a fence takes beside its shape and its texts.
const FENCE_BYTES: usize = 1_000;

fn bytes(fence: &Fence) -> usize {
    let texts = fence.fence_id.len() + fence.name.as_ref().map_or(0, |name| name.len());
    FENCE_BYTES + texts + fence.shape.bytes()
}

impl Fences {
    /// No fence yet. The margin is that of the [`Rules`].
    #[must_use]
    pub fn new(margin_m: f64) -> Self {
        Self { margin_m, companies: HashMap::default(), count: 0, bytes: 0 }
    }

    /// A fence comes at a tick, or changes.
    pub fn put(&mut self, tick: Tick, company_id: &str, fence_id: &str, name: Option<&str>, shape: Shape) {
        let company = self.companies.entry(company_id.into()).or_insert_with_key(|id| Company::new(id.clone()));
        let old = company.take(fence_id, self.margin_m);
        match &old {
            Some(old) => self.bytes -= bytes(old),
            None => self.count += 1,
        }
        let life = old.as_ref().map_or_else(|| Rc::new(Life { from: tick, ..Life::default() }), |old| old.life.clone());
        let fence_id = old.map_or_else(|| fence_id.into(), |old| old.fence_id.clone());
        let fence = Fence { company_id: company.id.clone(), fence_id, name: name.map(Arc::from), shape, life };
        self.bytes += bytes(&fence);
        company.put(fence, self.margin_m);
    }

    /// A fence goes at a tick. Whether there was one.
    pub fn remove(&mut self, tick: Tick, company_id: &str, fence_id: &str) -> bool {
        let Some(company) = self.companies.get_mut(company_id) else { return false };
        let Some(old) = company.take(fence_id, self.margin_m) else { return false };
        self.bytes -= bytes(&old);
        self.count -= 1;
        old.life.until.set(Some(tick));
        if company.numbers.is_empty() {
            self.companies.remove(company_id);
        }
        true
    }

    /// What a position of a vehicle of this company says, by the fences' ids; into `said`, which is cleared.
    ///
    /// # Errors
    /// There are more fences at the place than are allowed.
    pub fn ask(&self, company_id: Option<&str>, at: Point, said: &mut Vec<Says>) -> Result<(), TooMany> {
        said.clear();
        let Some(company) = company_id.and_then(|id| self.companies.get(id)) else { return Ok(()) };
        for number in company.grid.at(at) {
            let Some(fence) = &company.fences[number as usize] else { continue };
            let Some(inside) = fence.shape.locate(at, self.margin_m) else { continue };
            if said.len() == AT_ONCE_MAX {
                said.clear();
                return Err(TooMany);
            }
            said.push(Says { fence: fence.clone(), inside });
        }
        said.sort_unstable_by(|a, b| a.fence.fence_id.cmp(&b.fence.fence_id));
        Ok(())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes that they take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Company {
    fn new(id: Arc<str>) -> Self {
        Self { id, numbers: HashMap::default(), fences: Vec::new(), free: Vec::new(), grid: Grid::default() }
    }

    fn put(&mut self, fence: Fence, margin_m: f64) {
        let number = self.free.pop().unwrap_or_else(|| {
            self.fences.push(None);
            (self.fences.len() - 1) as u32
        });
        self.grid.insert(&fence.shape.bounds().widened(margin_m), &fence.shape.parts(margin_m), number);
        self.numbers.insert(fence.fence_id.clone(), number);
        self.fences[number as usize] = Some(Rc::new(fence));
    }

    fn take(&mut self, fence_id: &str, margin_m: f64) -> Option<Rc<Fence>> {
        let number = self.numbers.remove(fence_id)?;
        let fence = self.fences[number as usize].take()?;
        self.grid.remove(&fence.shape.parts(margin_m), number);
        self.free.push(number);
        Some(fence)
    }
}

#[cfg(test)]
mod tests;
