//! Keyed state that outlives the process: what an operator keeps of events, as records that a checkpoint takes and a start gives
//! back. Tables need none of it: they are built again from their rows.
//!
//! Invariant: between two frontiers, when nothing is being worked on, the newest record of every key is the operator's whole
//! state. A record names the part of its key by which events are spread over workers, so that another number of workers finds it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::batch::key_hash;

/// Longest key of a record, in bytes: its length is written in two.
const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// Takes a record: its key, and its value, which is none where the key is gone.
pub type Give<'a> = dyn FnMut(&[u8], Option<&[u8]>) + 'a;

/// State of one operator on one worker.
pub trait Durable {
    /// Gives the records of every key that changed since the last call.
    fn changed(&mut self, give: &mut Give<'_>);

    /// Takes back a record that [`changed`](Self::changed) gave, before any event.
    ///
    /// # Errors
    /// It is none of this operator's.
    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), Damaged>;
}

/// A record that is not what its operator wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The operator's name in the checkpoint.
    pub node: String,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a record of {}: {}", self.node, self.why)
    }
}

impl std::error::Error for Damaged {}

impl Damaged {
    /// Said by an operator, which does not know its name.
    #[must_use]
    pub fn new(why: impl fmt::Display) -> Self {
        Self { node: String::new(), why: why.to_string() }
    }

    /// With the operator's name.
    #[must_use]
    pub fn of(self, node: &str) -> Self {
        Self { node: node.to_owned(), ..self }
    }
}

/// A record's key: what its events are spread by, and what else tells it apart.
pub fn write_key(into: &mut Vec<u8>, spread_by: &[u8], rest: &[u8]) {
    let length = u16::try_from(spread_by.len()).unwrap_or_else(|_| panic!("a key is at most {KEY_BYTES_MAX} bytes"));
    into.clear();
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(spread_by);
    into.extend_from_slice(rest);
}

/// The two parts of a key.
///
/// # Errors
/// It is no key.
pub fn read_key(key: &[u8]) -> Result<(&[u8], &[u8]), Damaged> {
    let parts = key.split_first_chunk::<2>();
    let parts = parts.and_then(|(length, rest)| rest.split_at_checked(u16::from_le_bytes(*length) as usize));
    parts.ok_or_else(|| Damaged::new("its key is cut off"))
}

/// The worker among `workers` that events with this record's key come to.
///
/// # Errors
/// It is no key.
pub fn worker_of(key: &[u8], workers: usize) -> Result<usize, Damaged> {
    Ok((key_hash(read_key(key)?.0) % workers as u64) as usize)
}

/// Bytes of a value that is written in one go: growing byte by byte takes several times as long.
const SMALL_BYTES_MAX: usize = 256;

/// A value as its bytes, after what `into` had.
pub fn write(into: &mut Vec<u8>, value: &impl Serialize) {
    let mut small = [0; SMALL_BYTES_MAX];
    if let Ok(written) = postcard::to_slice(value, &mut small) {
        into.extend_from_slice(written);
        return;
    }
    let taken = std::mem::take(into);
    *into = postcard::to_extend(value, taken).expect("numbers, texts and lists of them have a form");
}

/// The value of these bytes.
///
/// # Errors
/// They are none, or there are more.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Damaged> {
    match postcard::take_from_bytes(bytes).map_err(Damaged::new)? {
        (value, []) => Ok(value),
        (_, rest) => Err(Damaged::new(format!("{} bytes too many", rest.len()))),
    }
}

/// The text of these bytes.
///
/// # Errors
/// They are none.
pub fn text(bytes: &[u8]) -> Result<&str, Damaged> {
    std::str::from_utf8(bytes).map_err(Damaged::new)
}

/// Numbers that changed since they were last taken, each once and in the order of their first change. Costs a bit a number.
#[derive(Debug, Default)]
pub struct Dirty {
    is_kept: bool,
    marks: Vec<u64>,
    numbers: Vec<u32>,
}

impl Dirty {
    /// Of state that is to be written, or of none.
    #[must_use]
    pub fn new(is_kept: bool) -> Self {
        Self { is_kept, ..Self::default() }
    }

    /// Notes that a number changed.
    pub fn mark(&mut self, number: u32) {
        if !self.is_kept {
            return;
        }
        let (word, bit) = (number as usize / 64, 1 << (number % 64));
        if word >= self.marks.len() {
            self.marks.resize(word + 1, 0);
        }
        if self.marks[word] & bit == 0 {
            self.marks[word] |= bit;
            self.numbers.push(number);
        }
    }

    /// The numbers that changed; none are noted afterwards.
    pub fn take(&mut self) -> Vec<u32> {
        for &number in &self.numbers {
            self.marks[number as usize / 64] = 0;
        }
        std::mem::take(&mut self.numbers)
    }
}

/// Records by the name of their operator, as a start has read them for one worker.
pub type Records = BTreeMap<String, Vec<(Box<[u8]>, Box<[u8]>)>>;

#[derive(Default)]
struct Kept {
    parts: Vec<(String, Rc<RefCell<dyn Durable>>)>,
    restored: Records,
    damage: Option<Damaged>,
}

/// The durable state of one worker's operators. By default nothing is kept, and operators note no changes.
#[derive(Clone, Default)]
pub struct States(Option<Rc<RefCell<Kept>>>);

impl States {
    /// State that is kept, beginning with these records.
    #[must_use]
    pub fn new(restored: Records) -> Self {
        Self(Some(Rc::new(RefCell::new(Kept { restored, ..Kept::default() }))))
    }

    /// Whether operators are to note what changes.
    #[must_use]
    pub fn are_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Takes an operator's state under a name that is its own on this worker, and gives it what it had. A record that is not what
    /// such an operator writes is told by [`damage`](Self::damage).
    pub fn keep<S: Durable + 'static>(&self, node: &str, mut state: S) -> Rc<RefCell<S>> {
        let Some(kept) = &self.0 else { return Rc::new(RefCell::new(state)) };
        let mut kept = kept.borrow_mut();
        for (key, value) in kept.restored.remove(node).unwrap_or_default() {
            if let Err(why) = state.restore(&key, &value) {
                kept.damage.get_or_insert(why.of(node));
            }
        }
        let state = Rc::new(RefCell::new(state));
        kept.parts.push((node.to_owned(), state.clone()));
        state
    }

    /// The first record that could not be given back: what was built is not to be used then.
    #[must_use]
    pub fn damage(&self) -> Option<Damaged> {
        self.0.as_ref().and_then(|kept| kept.borrow().damage.clone())
    }

    /// Gives the name of each operator and the records that changed since the last call.
    pub fn changed(&self, mut give: impl FnMut(&str, &[u8], Option<&[u8]>)) {
        let Some(kept) = &self.0 else { return };
        for (node, state) in &kept.borrow().parts {
            state.borrow_mut().changed(&mut |key, value| give(node, key, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Catches a record that another number of workers would not find, and bytes that make the reader panic.
        #[test]
        fn keys_come_apart_again(by in proptest::collection::vec(any::<u8>(), 0..40), rest in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut key = Vec::new();
            write_key(&mut key, &by, &rest);
            prop_assert_eq!(read_key(&key), Ok((&by[..], &rest[..])));
            let _ = read_key(&rest);
            let _ = read::<(u64, Vec<(i64, i64)>)>(&rest);
        }
    }

    #[test]
    fn a_value_is_written_after_what_there_is_whatever_its_length() {
        for length in [0, 1, 200, 250, 255, 256, 257, 1_000] {
            let (value, mut bytes) = (vec![7u8; length], vec![1, 2]);
            write(&mut bytes, &value);
            assert_eq!((&bytes[..2], read::<Vec<u8>>(&bytes[2..])), (&[1, 2][..], Ok(value)));
        }
    }

    #[test]
    fn each_number_is_told_once() {
        let mut dirty = Dirty::new(true);
        [3, 70, 3, 64, 70].into_iter().for_each(|number| dirty.mark(number));
        assert_eq!(dirty.take(), [3, 70, 64]);
        dirty.mark(70);
        assert_eq!(dirty.take(), [70]);
        assert!(dirty.take().is_empty());
        let mut none = Dirty::default();
        none.mark(5);
        assert!(none.take().is_empty());
    }
}
