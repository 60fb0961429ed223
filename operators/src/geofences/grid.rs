//! Which fences may be at a position: squares of several sizes, each fence in the smallest of which it needs few.
//!
//! Invariant: a fence is found at every position within its bounds.

use hashbrown::HashMap;

use super::shape::{Bounds, Point};

/// The smallest squares are 360 / 2^20 degrees wide: 38 m at the equator.
const LEVELS: usize = 21;
/// In so many squares a fence is at most: fewer are larger, and hold more fences that are not at a position.
const SQUARES_MAX: usize = 16;

/// A fence in a square: what is not near it is told by what stands here, and needs no look at the fence.
#[derive(Debug)]
struct Entry {
    /// Least and most latitude, least and most longitude.
    bounds: [f32; 4],
    number: u32,
}

impl Entry {
    fn new(bounds: &Bounds, number: u32) -> Self {
        let Bounds { least, most } = bounds;
        let (down, up) = (|value: f64| (value as f32).next_down(), |value: f64| (value as f32).next_up());
        Self { bounds: [down(least.lat), up(most.lat), down(least.lon), up(most.lon)], number }
    }

    fn has(&self, at: Point) -> bool {
        let [south, north, west, east] = self.bounds.map(f64::from);
        south <= at.lat && at.lat <= north && west <= at.lon && at.lon <= east
    }
}

/// Numbers of fences by squares.
#[derive(Debug, Default)]
pub struct Grid {
    squares: HashMap<u64, Vec<Entry>, foldhash::fast::FixedState>,
    /// How many fences are in squares of each size.
    counts: [u32; LEVELS],
    /// A bit for each size that is in use.
    used: u32,
}

fn square(level: usize, x: u32, y: u32) -> u64 {
    (level as u64) << 56 | u64::from(x) << 28 | u64::from(y)
}

fn place(level: usize, at: Point) -> (u32, u32) {
    let per_degree = (1u32 << level) as f64 / 360.0;
    // A position beyond the edge belongs to the square at the edge.
    (((at.lon + 180.0) * per_degree) as u32, ((at.lat + 90.0) * per_degree) as u32)
}

/// The squares of a size that these bounds lie in, if they are not too many.
fn of_level(level: usize, parts: &[Bounds]) -> Option<Vec<u64>> {
    let mut squares = Vec::new();
    for part in parts {
        let ((x0, y0), (x1, y1)) = (place(level, part.least), place(level, part.most));
        for square in (x0..=x1).flat_map(|x| (y0..=y1).map(move |y| square(level, x, y))) {
            if squares.contains(&square) {
                continue;
            }
            if squares.len() == SQUARES_MAX {
                return None;
            }
            squares.push(square);
        }
    }
    Some(squares)
}

/// The smallest squares in which these bounds lie, and their size.
fn squares(parts: &[Bounds]) -> (usize, Vec<u64>) {
    let levels = (0..LEVELS).map_while(|level| Some((level, of_level(level, parts)?)));
    levels.last().unwrap_or_default()
}

impl Grid {
    /// Puts a number where these parts are, within these bounds.
    pub fn insert(&mut self, bounds: &Bounds, parts: &[Bounds], number: u32) {
        let (level, squares) = squares(parts);
        squares.into_iter().for_each(|square| self.squares.entry(square).or_default().push(Entry::new(bounds, number)));
        self.counts[level] += 1;
        self.used |= 1 << level;
    }

    /// Takes away what was put there with these parts.
    pub fn remove(&mut self, parts: &[Bounds], number: u32) {
        let (level, squares) = squares(parts);
        for square in squares {
            let Some(numbers) = self.squares.get_mut(&square) else { continue };
            numbers.retain(|entry| entry.number != number);
            if numbers.is_empty() {
                self.squares.remove(&square);
            }
        }
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
            let entries = self.squares.get(&square(level, x, y)).into_iter().flatten();
            entries.filter(move |entry| entry.has(at)).map(|entry| entry.number)
        })
    }
}
