//! Text columns by slot, from which whole Arrow columns are gathered without copying text: the values of a lookup join.
//! Gathered columns share the table's buffers, so a buffer lives until the last batch that refers to it is gone.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringViewArray, make_view};
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};

/// A slot number that stands for "no row": gathers as null.
pub const NO_SLOT: u32 = u32::MAX;

/// A view that no text has: its length is impossible.
const NULL: u128 = u128::MAX;
/// Texts up to this many bytes lie in the view itself.
const INLINE_BYTES_MAX: u32 = 12;
/// Each change of the table between two gathers starts a new block of text. So many small ones, or so many bytes in them, are
/// put together into one.
const SMALL_BLOCKS_MAX: usize = 64;
const SMALL_BYTES_MAX: usize = 512 << 10;
/// So many blocks that were put together once are put together into one: every batch names them all.
const BLOCKS_MAX: usize = 256;

/// Rows gathered at a time.
const GATHER_ROWS: usize = 128;

/// Text columns addressed by slot.
#[derive(Clone, Debug)]
pub struct StringTable {
    columns: usize,
    /// Row by row, so that a row's texts lie together.
    views: Vec<u128>,
    blocks: Vec<Buffer>,
    shared: Option<Arc<[Buffer]>>,
    open: Vec<u8>,
    /// The first of the small blocks, and which views were set since they began (again and again, perhaps).
    small_from: usize,
    set_since: Vec<usize>,
    live_bytes: usize,
    total_bytes: usize,
}

impl StringTable {
    /// A table of this many columns and no rows.
    #[must_use]
    pub fn new(columns: usize) -> Self {
        Self {
            columns,
            views: Vec::new(),
            blocks: Vec::new(),
            shared: None,
            open: Vec::new(),
            small_from: 0,
            set_since: Vec::new(),
            live_bytes: 0,
            total_bytes: 0,
        }
    }

    /// Sets one value of the row in `slot`; the table grows to hold the slot.
    pub fn set(&mut self, slot: u32, column: usize, value: Option<&str>) {
        let at = slot as usize * self.columns + column;
        if self.views.len() <= at {
            self.views.resize((slot as usize + 1) * self.columns, NULL);
        }
        let view = match value {
            None => NULL,
            Some(text) => {
                let offset = u32::try_from(self.open.len()).expect("a block is closed before it reaches 4 GiB");
                if text.len() > INLINE_BYTES_MAX as usize {
                    self.open.extend_from_slice(text.as_bytes());
                    self.set_since.push(at);
                    self.live_bytes += text.len();
                    self.total_bytes += text.len();
                }
                make_view(text.as_bytes(), self.blocks.len() as u32, offset)
            }
        };
        let old = std::mem::replace(&mut self.views[at], view);
        self.live_bytes -= stored_bytes(old);
        if self.open.len() > 1 << 30 {
            self.freeze();
        }
    }

    /// Makes all values of a slot null.
    pub fn clear(&mut self, slot: u32) {
        for column in 0..self.columns {
            self.set(slot, column, None);
        }
    }

    /// One value, for use outside the hot path.
    #[must_use]
    pub fn get(&mut self, slot: u32, column: usize) -> Option<String> {
        self.gather(&[slot])[column].as_string_view().iter().next().flatten().map(str::to_owned)
    }

    /// Every column's values for these slots, [`NO_SLOT`] as null.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn gather(&mut self, slots: &[u32]) -> Vec<ArrayRef> {
        let buffers = self.buffers();
        let mut columns: Vec<Vec<u128>> = (0..self.columns).map(|_| Vec::with_capacity(slots.len())).collect();
        // Column by column, but only so many rows at a time that they stay in the first cache.
        for block in slots.chunks(GATHER_ROWS) {
            for (at, column) in columns.iter_mut().enumerate() {
                let view = |&slot: &u32| match slot {
                    NO_SLOT => NULL,
                    slot => self.views[slot as usize * self.columns + at],
                };
                column.extend(block.iter().map(view));
            }
        }
        let array = |mut views: Vec<u128>| {
            let nulls = views.contains(&NULL).then(|| {
                let nulls = NullBuffer::from_iter(views.iter().map(|&view| view != NULL));
                views.iter_mut().filter(|view| **view == NULL).for_each(|view| *view = 0);
                nulls
            });
            // SAFETY: every view that is not null was made by `make_view` from a `&str`; a long one names the block that
            // the text went into, which is in `buffers`, at its offset there. Blocks are never changed after they are
            // closed. The checked constructor reads every text again, which costs more than the whole lookup.
            let array = unsafe { StringViewArray::new_unchecked(ScalarBuffer::from(views), buffers.clone(), nulls) };
            Arc::new(array) as ArrayRef
        };
        columns.into_iter().map(array).collect()
    }

    /// Bytes held for this table, without what batches in flight keep alive.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.total_bytes + self.views.capacity() * 16
    }

    fn buffers(&mut self) -> Arc<[Buffer]> {
        if !self.open.is_empty() {
            self.freeze();
        }
        if self.total_bytes > 2 * self.live_bytes + (1 << 20) || self.small_from > BLOCKS_MAX {
            self.gather_text(0, 0..self.views.len());
        } else {
            let small_bytes: usize = self.blocks[self.small_from..].iter().map(Buffer::len).sum();
            if self.blocks.len() - self.small_from > SMALL_BLOCKS_MAX || small_bytes > SMALL_BYTES_MAX {
                let mut set = std::mem::take(&mut self.set_since);
                set.sort_unstable();
                set.dedup();
                self.gather_text(self.small_from, set);
            }
        }
        self.shared.get_or_insert_with(|| self.blocks.clone().into()).clone()
    }

    fn freeze(&mut self) {
        self.blocks.push(Buffer::from_vec(std::mem::take(&mut self.open)));
        self.shared = None;
    }

    /// Puts what these views still refer to of the blocks from `first` on into one block in their place.
    fn gather_text(&mut self, first: usize, views: impl IntoIterator<Item = usize>) {
        let mut text = Vec::new();
        for at in views {
            let view = &mut self.views[at];
            let (length, block) = (*view as u32, (*view >> 64) as u32 as usize);
            if *view == NULL || length <= INLINE_BYTES_MAX || block < first {
                continue;
            }
            let offset = (*view >> 96) as u32 as usize;
            let bytes = &self.blocks[block][offset..offset + length as usize];
            let offset = u32::try_from(text.len()).expect("the texts of one table stay below 4 GiB");
            *view = make_view(bytes, first as u32, offset);
            text.extend_from_slice(bytes);
        }
        let before: usize = self.blocks[first..].iter().map(Buffer::len).sum();
        self.total_bytes = self.total_bytes - before + text.len();
        self.blocks.truncate(first);
        if !text.is_empty() {
            self.blocks.push(Buffer::from_vec(text));
        }
        self.small_from = self.blocks.len();
        self.set_since.clear();
        self.shared = None;
    }
}

fn stored_bytes(view: u128) -> usize {
    let length = view as u32;
    if view == NULL || length <= INLINE_BYTES_MAX { 0 } else { length as usize }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Array;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Catches views into the wrong block after freezing or compaction, nulls taken for text, lost updates.
        #[test]
        fn gathers_what_was_set(ops in proptest::collection::vec((0u32..20, 0usize..3, proptest::option::of(0usize..40), any::<bool>()), 1..1500)) {
            let mut table = StringTable::new(3);
            let mut model: BTreeMap<(u32, usize), Option<String>> = BTreeMap::new();
            for (number, (slot, column, length, look)) in ops.into_iter().enumerate() {
                let text = length.map(|length| format!("{number}{}", "ü".repeat(length)));
                table.set(slot, column, text.as_deref());
                model.insert((slot, column), text);
                if look {
                    let slots: Vec<u32> = model.keys().filter(|key| key.1 == column).map(|key| key.0).chain([NO_SLOT]).collect();
                    let array = table.gather(&slots).swap_remove(column);
                    array.to_data().validate_full().expect("a valid Arrow array");
                    let array = array.as_string_view();
                    for (row, slot) in slots.iter().enumerate() {
                        let expected = model.get(&(*slot, column)).cloned().flatten();
                        let found = array.is_valid(row).then(|| array.value(row).to_owned());
                        prop_assert_eq!(found, expected);
                    }
                }
            }
        }
    }

    #[test]
    fn many_small_changes_stay_bounded() {
        let mut table = StringTable::new(1);
        for round in 0..20_000u32 {
            table.set(round % 10, 0, Some(&format!("a text longer than twelve bytes {round}")));
            let _ = table.gather(&[round % 10]);
        }
        assert!(table.blocks.len() <= BLOCKS_MAX + SMALL_BLOCKS_MAX + 2, "{}", table.blocks.len());
        assert!(table.bytes() < 2 << 20, "{}", table.bytes());
        assert_eq!(table.get(9, 0).as_deref(), Some("a text longer than twelve bytes 19999"));
    }
}
