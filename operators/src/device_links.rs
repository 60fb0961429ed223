//! The links of vehicles as seen from the device: which vehicles carry it, and their values, kept for lookup. One such table
//! stands in each operator that looks events up, filled from the changes of `vehicle_links` in tick order.

use arrow::array::{Array, AsArray, RecordBatch, StringViewArray};

use crate::batch::DELETED;
use crate::devices::{ByDevice, Devices};
use crate::keyed::{Key, Keyed};
use crate::record::output;
use crate::string_table::{NO_SLOT, StringTable};

/// Vehicles by device. A vehicle's row has a slot, under which its texts stand in [`texts`](Self::texts).
#[derive(Debug)]
pub struct DeviceLinks {
    /// The wanted columns of each vehicle's row, by the vehicle's slot.
    pub texts: StringTable,
    columns: Columns,
    vehicles: Keyed<()>,
    devices: Devices,
    carriers: ByDevice<Carriers>,
}

/// Where in [`output::links`] the columns stand.
#[derive(Debug)]
struct Columns {
    vehicle: usize,
    device: usize,
    deleted: usize,
    wanted: Vec<usize>,
}

/// The vehicles that claim one device, by ascending id. Nearly always one; [`NO_SLOT`] for none.
#[derive(Debug)]
struct Carriers {
    first: u32,
    #[expect(clippy::box_collection, reason = "nearly always none: eight bytes a device instead of twenty-four")]
    others: Option<Box<Vec<u32>>>,
}

impl DeviceLinks {
    /// An empty table that keeps these columns of `vehicle_links`.
    #[must_use]
    pub fn new(wanted: &[&str], devices: &Devices) -> Self {
        let schema = output::links();
        let at = |name: &str| schema.index_of(name).expect("links have this column");
        let columns = Columns {
            vehicle: at("vehicle_id"),
            device: at("device_id"),
            deleted: at(DELETED),
            wanted: wanted.iter().map(|name| at(name)).collect(),
        };
        Self {
            texts: StringTable::new(wanted.len()),
            columns,
            vehicles: Keyed::default(),
            devices: devices.clone(),
            carriers: ByDevice::default(),
        }
    }

    /// Applies one change. A change names the device as it stood: the old one in a delete, the new one in an upsert.
    /// Gives the device's number and whether the vehicle carries it from now on; `None` if it names no device.
    pub fn apply(&mut self, rows: &RecordBatch, row: usize) -> Option<(u32, bool)> {
        let vehicle = Key::new(text(rows, self.columns.vehicle, row)?);
        let device = self.devices.number(device_of(text(rows, self.columns.device, row))?);
        if rows.column(self.columns.deleted).as_boolean().value(row) {
            let slot = self.vehicles.find(&vehicle)?;
            self.detach(device, slot);
            self.texts.clear(slot);
            self.vehicles.remove(slot);
            return Some((device, false));
        }
        let slot = self.vehicles.slot(&vehicle, || ());
        for (column, &at) in self.columns.wanted.iter().enumerate() {
            self.texts.set(slot, column, text(rows, at, row));
        }
        self.attach(device, slot);
        Some((device, true))
    }

    /// The slot of the vehicle that events of this device belong to: of those that claim it, the one with the smallest id;
    /// [`NO_SLOT`] where none does.
    #[must_use]
    pub fn vehicle_of(&self, device: u32) -> u32 {
        self.carriers.get(device).map_or(NO_SLOT, |carriers| carriers.first)
    }

    /// The slots of all vehicles that claim this device, by ascending id.
    pub fn vehicles_of(&self, device: u32) -> impl Iterator<Item = u32> {
        self.carriers.get(device).into_iter().flat_map(Carriers::all)
    }

    /// Vehicles that carry a device.
    #[must_use]
    pub fn len(&self) -> usize {
        self.vehicles.len()
    }

    /// Whether no vehicle carries a device.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.vehicles.is_empty()
    }

    fn attach(&mut self, device: u32, vehicle: u32) {
        self.carriers.reserve(&[device], || Carriers::of(&[]));
        let carriers = self.carriers.at(device);
        if carriers.all().any(|other| other == vehicle) {
            return;
        }
        let mut all: Vec<u32> = carriers.all().chain([vehicle]).collect();
        all.sort_by(|&a, &b| self.vehicles.text(a).cmp(self.vehicles.text(b)));
        *carriers = Carriers::of(&all);
    }

    fn detach(&mut self, device: u32, vehicle: u32) {
        self.carriers.reserve(&[device], || Carriers::of(&[]));
        let carriers = self.carriers.at(device);
        let all: Vec<u32> = carriers.all().filter(|&other| other != vehicle).collect();
        *carriers = Carriers::of(&all);
    }
}

impl Carriers {
    fn of(all: &[u32]) -> Self {
        let first = all.first().copied().unwrap_or(NO_SLOT);
        Self { first, others: (all.len() > 1).then(|| Box::new(all[1..].to_vec())) }
    }

    fn all(&self) -> impl Iterator<Item = u32> {
        let first = Some(self.first).filter(|&slot| slot != NO_SLOT);
        first.into_iter().chain(self.others.iter().flat_map(|others| others.iter().copied()))
    }
}

/// The device that a row of links names: an empty id is none.
#[must_use]
pub fn device_of(named: Option<&str>) -> Option<&str> {
    named.filter(|device| !device.is_empty())
}

fn text(rows: &RecordBatch, column: usize, row: usize) -> Option<&str> {
    let values: &StringViewArray = rows.column(column).as_string_view();
    values.is_valid(row).then(|| values.value(row))
}
