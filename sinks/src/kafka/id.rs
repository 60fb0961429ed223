//! Numbers of flights and of records in them, in one word each.
//!
//! Invariant: of flights that are under way at the same time no two have the same slot, and of flights of which any report can
//! still come no two have the same serial number.

/// Flights that may be under way at once, at most.
pub(super) const SLOTS: usize = 64;
/// Bits of the record's index; a flight has fewer records than that.
const INDEX_BITS: u32 = 40;
const INDEX_MAX: u64 = (1 << INDEX_BITS) - 1;
/// Serial numbers; as a multiple of `SLOTS` it leaves their order as it is when they begin anew.
const SERIALS: u32 = 1 << 24;

const _: () = assert!(usize::BITS == 64 && (SERIALS as usize).is_multiple_of(SLOTS));

/// Number of a flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Serial(u32);

impl Serial {
    pub(super) fn following(self) -> Self {
        Self((self.0 + 1) % SERIALS)
    }

    /// Where its reports are counted.
    pub(super) fn slot(self) -> usize {
        self.0 as usize % SLOTS
    }

    /// The flight's number together with one below 2^40.
    pub(super) fn with(self, number: u64) -> u64 {
        debug_assert!(number <= INDEX_MAX, "{number} is too large");
        u64::from(self.0) << INDEX_BITS | number
    }

    /// Id of the flight's record at `index`.
    pub(super) fn id(self, index: usize) -> usize {
        self.with(index as u64) as usize
    }

    /// What [`with`](Self::with) has put together.
    pub(super) fn split(both: u64) -> (Self, u64) {
        (Self((both >> INDEX_BITS) as u32), both & INDEX_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_apart_again_and_begin_anew_in_the_same_order_of_slots() {
        let last = Serial(SERIALS - 1);
        assert_eq!(Serial::split(last.with(INDEX_MAX)), (last, INDEX_MAX));
        assert_eq!(Serial::split(last.id(7) as u64), (last, 7));
        assert_eq!((last.slot(), last.following(), last.following().slot()), (SLOTS - 1, Serial(0), 0));
    }
}
