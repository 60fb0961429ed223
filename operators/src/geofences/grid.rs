//! Which fences may be at a position: squares of several sizes, each fence in the few squares that it lies in, of about its own
//! size.
//!
//! Invariant: a fence is found at every position within its bounds.

use hashbrown::HashMap;

use super::shape::{Bounds, Point};

/// The smallest squares are 360 / 2^20 degrees wide: 38 m at the equator.
const LEVELS: usize = 21;

/// Numbers of fences by squares.
#[derive(Debug, Default)]
pub struct Grid {
    squares: HashMap<u64, Vec<u32>, foldhash::fast::FixedState>,
    /// How many fences are in squares of each size.
    counts: [u32; LEVELS],
    /// A bit for each size that is in use.
    used: u32,
}

fn width(level: usize) -> f64 {
    360.0 / (1u32 << level) as f64
}

fn square(level: usize, x: u32, y: u32) -> u64 {
    (level as u64) << 56 | u64::from(x) << 28 | u64::from(y)
}

fn place(level: usize, at: Point) -> (u32, u32) {
    let per_degree = (1u32 << level) as f64 / 360.0;
    // A position beyond the edge belongs to the square at the edge.
    (((at.lon + 180.0) * per_degree) as u32, ((at.lat + 90.0) * per_degree) as u32)
}

fn level(bounds: &Bounds) -> usize {
    let extent = (bounds.most.lat - bounds.least.lat).max(bounds.most.lon - bounds.least.lon);
    (0..LEVELS).rev().find(|level| width(*level) >= extent).unwrap_or(0)
}

fn squares(bounds: &Bounds) -> impl Iterator<Item = u64> {
    let level = level(bounds);
    let ((x0, y0), (x1, y1)) = (place(level, bounds.least), place(level, bounds.most));
    (x0..=x1).flat_map(move |x| (y0..=y1).map(move |y| square(level, x, y)))
}

impl Grid {
    /// Puts a number where these bounds are.
    pub fn insert(&mut self, bounds: &Bounds, number: u32) {
        squares(bounds).for_each(|square| self.squares.entry(square).or_default().push(number));
        let level = level(bounds);
        self.counts[level] += 1;
        self.used |= 1 << level;
    }

    /// Takes away what was put there with these bounds.
    pub fn remove(&mut self, bounds: &Bounds, number: u32) {
        for square in squares(bounds) {
            let Some(numbers) = self.squares.get_mut(&square) else { continue };
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.squares.remove(&square);
            }
        }
        let level = level(bounds);
        self.counts[level] -= 1;
        if self.counts[level] == 0 {
            self.used &= !(1 << level);
        }
    }

    /// Numbers that may be at a position, and surely those that are.
    pub fn at(&self, at: Point) -> impl Iterator<Item = u32> {
        let mut left = self.used;
        let levels = std::iter::from_fn(move || {
            let level = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            (level < u32::BITS).then_some(level as usize)
        });
        levels.flat_map(move |level| {
            let (x, y) = place(level, at);
            self.squares.get(&square(level, x, y)).into_iter().flatten().copied()
        })
    }
}
