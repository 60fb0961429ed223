//! How the files of a history are named, which the sink that writes them and the queries that read them share.
//!
//! Invariant: a file's name says of which ticks it holds every row of its worker. Where one file's ticks lie within those of
//! another of the same worker, its rows are in that other one too, and only that one counts.

use std::cmp::Reverse;
use std::fmt;

use crate::time::Tick;

/// What a file's name says: `FROM-UPTO-WORKERofWORKERS.parquet`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// First tick of its rows.
    pub from: Tick,
    /// First tick after those of which it has every row.
    pub upto: Tick,
    /// Worker that made the rows.
    pub worker: usize,
    /// How many workers there were.
    pub workers: usize,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // So many digits that names sort as times do, until the year 318857.
        write!(f, "{:016}-{:016}-{}of{}.parquet", self.from, self.upto, self.worker, self.workers)
    }
}

impl Name {
    /// Reads a file's name; `None` if it is not one of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Name> {
        let mut parts = name.strip_suffix(".parquet")?.splitn(3, '-');
        let (from, upto) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let (worker, workers) = parts.next()?.split_once("of")?;
        Some(Name { from, upto, worker: worker.parse().ok()?, workers: workers.parse().ok()? })
    }

    /// Whether this file's rows are all in `other` too: it has been put together with others into that one.
    #[must_use]
    pub fn is_within(&self, other: &Name) -> bool {
        let same = self.worker == other.worker && self.workers == other.workers;
        same && self != other && other.from <= self.from && self.upto <= other.upto
    }
}

/// The files of one directory that hold each row once.
#[must_use]
pub fn current<T>(mut files: Vec<T>, name: impl Fn(&T) -> Name) -> Vec<T> {
    // The larger of two that begin together comes first, so one look back is enough.
    files.sort_unstable_by_key(|file| {
        let name = name(file);
        (name.workers, name.worker, name.from, Reverse(name.upto))
    });
    let mut last: Option<Name> = None;
    files.retain(|file| {
        let name = name(file);
        let keep = last.is_none_or(|last| !name.is_within(&last));
        if keep {
            last = Some(name);
        }
        keep
    });
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(from: Tick, upto: Tick, worker: usize) -> Name {
        Name { from, upto, worker, workers: 2 }
    }

    #[test]
    fn names_read_back_and_sort_by_time() {
        let early = name(1_767_225_600_010, 1_767_225_610_000, 1);
        assert_eq!(early.to_string(), "0001767225600010-0001767225610000-1of2.parquet");
        assert_eq!(Name::parse(&early.to_string()), Some(early));
        for odd in ["x.parquet", "1-2.parquet", "1-2-1of2.parquet.0.tmp", "1-2-1of.parquet", ".lock"] {
            assert_eq!(Name::parse(odd), None, "{odd}");
        }
        assert!(name(9, 10, 0).to_string() < name(10, 11, 0).to_string());
    }

    #[test]
    fn a_file_that_was_put_together_with_others_does_not_count() {
        let (a, b, c) = (name(0, 10, 0), name(10, 20, 0), name(25, 30, 0));
        let (both, all, other) = (name(0, 20, 0), name(0, 30, 0), name(0, 30, 1));
        let current = |names| current(names, |name: &Name| *name);
        assert_eq!(current(vec![c, b, a]), [a, b, c]);
        assert_eq!(current(vec![c, both, b, a, other]), [both, c, other]);
        assert_eq!(current(vec![b, all, both, c, a]), [all]);
        assert!(!a.is_within(&a) && !a.is_within(&other));
    }
}
