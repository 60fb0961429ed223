//! The devices that a worker owns, numbered from 0 as they come. What an operator keeps of a device stands in a vector under its
//! number, so an event's device is looked up once, not by each operator: on a large fleet every look-up misses the cache.
//!
//! Invariant: a number means the same device as long as the worker lives, and nothing outside of it. Bounded by the number of
//! devices ever heard of or linked.

use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::UInt32Type;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::operators::generic::operator::Operator;

use crate::batch::{Batch, DEVICE, HASH, by_key, strings, u64s};
use crate::keyed::{Key, Keyed};
use crate::record::telemetry;
use crate::time::Tick;

/// The numbers of a worker's devices, shared by its operators.
#[derive(Clone, Debug, Default)]
pub struct Devices(Rc<RefCell<Keyed<()>>>);

impl Devices {
    /// The number of a device; a new one if it was not known.
    #[must_use]
    pub fn number(&self, id: &str) -> u32 {
        self.0.borrow_mut().slot(&Key::new(id), || ())
    }

    /// The ids by number. Held for the time of a call only: numbers cannot be given meanwhile.
    #[must_use]
    pub fn ids(&self) -> Ref<'_, Keyed<()>> {
        self.0.borrow()
    }

    /// Telemetry with its devices' numbers in the place of the hashes of their ids.
    fn numbered(&self, rows: &RecordBatch) -> RecordBatch {
        let (ids, hashes) = (strings(rows, "device_id"), u64s(rows, HASH).values());
        let numbers = self.0.borrow_mut().slots(ids, hashes, 0..rows.num_rows(), || ());
        let at = rows.schema_ref().index_of(HASH).expect("telemetry has hashes");
        let mut columns = rows.columns().to_vec();
        columns[at] = Arc::new(UInt32Array::from(numbers)) as ArrayRef;
        RecordBatch::try_new(telemetry::owned_schema(), columns).expect("telemetry with numbers")
    }
}

/// Spreads telemetry over the workers by device and numbers what comes to this one: the column [`DEVICE`] stands in the place
/// of [`HASH`].
pub fn own<'s>(telemetry: Stream<'s, Tick, Batch>, devices: &Devices) -> Stream<'s, Tick, Batch> {
    let devices = devices.clone();
    telemetry.unary::<CapacityContainerBuilder<Batch>, _, _, _>(by_key(HASH), "Own", move |_, _| {
        move |input, output| {
            input.for_each(|time, batch| {
                if let Some(rows) = batch.take() {
                    output.session(&time).give_container(&mut devices.numbered(&rows).into());
                }
            });
        }
    })
}

/// The device numbers of telemetry that was [`own`]ed.
#[must_use]
pub fn numbers(rows: &RecordBatch) -> &[u32] {
    let column = rows.column_by_name(DEVICE).expect("telemetry was spread by device");
    column.as_primitive::<UInt32Type>().values()
}

/// Rows for which [`ByDevice::fetch`] is called at a time: what it fetches still lies in the first cache when it is used.
pub const FETCH_ROWS: usize = 64;

/// The value of each device by its number, of a kind that most devices have; missing ones are made where they are looked for.
#[derive(Debug)]
pub struct ByDevice<V>(Vec<V>);

impl<V> Default for ByDevice<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> ByDevice<V> {
    /// Makes room for these devices.
    pub fn reserve(&mut self, numbers: &[u32], make: impl Fn() -> V) {
        if let Some(&greatest) = numbers.iter().max()
            && self.0.len() <= greatest as usize
        {
            self.0.resize_with(greatest as usize + 1, make);
        }
    }

    /// Has the machine fetch these devices' values, all at once: one after the other each is waited for. `part` is what it reads
    /// of a value.
    pub fn fetch(&self, numbers: &[u32], part: impl Fn(&V) -> i64) {
        let values = numbers.iter().filter_map(|&number| self.get(number));
        std::hint::black_box(values.fold(0, |all, value| all ^ part(value)));
    }

    /// A device's value, if there is room for it.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&V> {
        self.0.get(number as usize)
    }

    /// The value of a device that there is room for.
    pub fn at(&mut self, number: u32) -> &mut V {
        &mut self.0[number as usize]
    }

    /// All values, by number.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut()
    }
}
