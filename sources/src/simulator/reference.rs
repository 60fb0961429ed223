//! The reference records of a simulated fleet: tariffs, companies, drivers, vehicles, and how they change over time. What
//! a record says depends on the seed and the changes so far only.

use std::collections::{HashMap, HashSet};
use std::io::Write;

use operators::record::Stream;

use super::random::{Random, mix};

/// Vehicles of one company, about.
const VEHICLES_PER_COMPANY: u64 = 50;
const TARIFFS: [(&str, u32, u32); 3] = [("Basic", 1, 10), ("Plus", 5, 100), ("Pro", 20, 1_000)];
const MODELS: [&str; 10] = [
    "Volvo FH 460",
    "Scania R 450",
    "MAN TGX 18.470",
    "DAF XF 480",
    "Mercedes-Benz Actros 1845",
    "Iveco S-Way 460",
    "Renault T 480",
    "Mercedes-Benz Sprinter 316",
    "Ford Transit 350",
    "Volkswagen Crafter 35",
];
const FIRST_NAMES: [&str; 20] = [
    "Anna",
    "Jan",
    "Marie",
    "Luca",
    "Sofia",
    "Piotr",
    "Elena",
    "Henrik",
    "Ines",
    "Tomáš",
    "Katarzyna",
    "Mateo",
    "Julie",
    "Andrei",
    "Freya",
    "Miloš",
    "Nora",
    "Pieter",
    "Zsófia",
    "Jonas",
];
const LAST_NAMES: [&str; 20] = [
    "Novák",
    "Müller",
    "Rossi",
    "Kowalski",
    "García",
    "Dubois",
    "Jensen",
    "Horvat",
    "Silva",
    "Popescu",
    "Nagy",
    "Larsson",
    "de Vries",
    "Papadopoulos",
    "Virtanen",
    "Kazlauskas",
    "Ivanov",
    "Murphy",
    "Weber",
    "Schmidt",
];
const COMPANY_NAMES: [&str; 12] = [
    "Nordwind", "Adria", "Baltica", "Corridor", "Danube", "Eurohaul", "Fjord", "Gotthard", "Hanse", "Iberia", "Jura",
    "Vistula",
];
const COMPANY_KINDS: [&str; 5] = ["Logistics", "Transport", "Freight", "Cargo", "Haulage"];

/// Identifies company number `index`.
fn company_id(index: u64, out: &mut Vec<u8>) {
    let _ = write!(out, "c-{index:05}"); // memory takes the bytes
}

/// The fleet's records.
#[derive(Debug)]
pub(super) struct Fleet {
    seed: u64,
    vehicles: u64,
    countries: Vec<&'static str>,
    random: Random,
    /// Vehicles that have another driver, company or device than at first, by vehicle.
    driver_of: HashMap<u64, u64>,
    company_of: HashMap<u64, u64>,
    device_of: HashMap<u64, u64>,
    /// How often a driver was renamed.
    renamed: HashMap<u64, u64>,
    /// Drivers that were deleted and not made again.
    deleted: HashSet<u64>,
}

/// A record that is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Tariff(u64),
    Company(u64),
    Driver(u64),
    Vehicle(u64),
}

impl Fleet {
    /// A fleet of `vehicles`, the country of each from `countries` in turn.
    pub(super) fn new(seed: u64, vehicles: u64, countries: Vec<&'static str>) -> Self {
        Self {
            seed,
            vehicles,
            countries,
            random: Random::new(mix(seed) ^ 0xf1ee7),
            driver_of: HashMap::new(),
            company_of: HashMap::new(),
            device_of: HashMap::new(),
            renamed: HashMap::new(),
            deleted: HashSet::new(),
        }
    }

    pub(super) fn companies(&self) -> u64 {
        self.vehicles.div_ceil(VEHICLES_PER_COMPANY)
    }

    /// Number of records that there are at first.
    pub(super) fn len(&self) -> u64 {
        TARIFFS.len() as u64 + self.companies() + 2 * self.vehicles
    }

    /// The record in place `index` of the first ones: those that others refer to come first.
    pub(super) fn first(&self, index: u64) -> Entry {
        let (tariffs, companies) = (TARIFFS.len() as u64, self.companies());
        match index {
            _ if index < tariffs => Entry::Tariff(index),
            _ if index < tariffs + companies => Entry::Company(index - tariffs),
            _ if index < tariffs + companies + self.vehicles => Entry::Driver(index - tariffs - companies),
            _ => Entry::Vehicle(index - tariffs - companies - self.vehicles),
        }
    }

    /// Changes something and names the records to write.
    pub(super) fn change(&mut self) -> Vec<Entry> {
        let vehicle = self.random.below(self.vehicles);
        let other = self.random.below(self.vehicles);
        match self.random.below(10) {
            0..4 => {
                let driver = self.driver(vehicle);
                *self.renamed.entry(driver).or_default() += 1;
                self.deleted.remove(&driver);
                vec![Entry::Driver(driver)]
            }
            4..7 => {
                let (a, b) = (self.driver(vehicle), self.driver(other));
                self.driver_of.insert(vehicle, b);
                self.driver_of.insert(other, a);
                vec![Entry::Vehicle(vehicle), Entry::Vehicle(other)]
            }
            7 => {
                let company = self.random.below(self.companies());
                self.company_of.insert(vehicle, company);
                vec![Entry::Vehicle(vehicle)]
            }
            8 => {
                let (a, b) = (self.device(vehicle), self.device(other));
                self.device_of.insert(vehicle, b);
                self.device_of.insert(other, a);
                vec![Entry::Vehicle(vehicle), Entry::Vehicle(other)]
            }
            _ => {
                let driver = self.driver(vehicle);
                if !self.deleted.insert(driver) {
                    self.deleted.remove(&driver);
                }
                vec![Entry::Driver(driver)]
            }
        }
    }

    fn driver(&self, vehicle: u64) -> u64 {
        self.driver_of.get(&vehicle).copied().unwrap_or(vehicle)
    }

    fn device(&self, vehicle: u64) -> u64 {
        self.device_of.get(&vehicle).copied().unwrap_or(vehicle)
    }

    fn company(&self, vehicle: u64) -> u64 {
        self.company_of.get(&vehicle).copied().unwrap_or(vehicle % self.companies())
    }

    fn draw(&self, kind: u64, index: u64, turn: u64) -> Random {
        Random::new(mix(self.seed ^ kind << 56) ^ mix(index << 16 | turn))
    }

    /// Writes the record's key and value as they stand now; tells its stream, and whether there is a value at all.
    pub(super) fn write(&self, entry: Entry, key: &mut Vec<u8>, value: &mut Vec<u8>) -> (Stream, bool) {
        key.clear();
        value.clear();
        match entry {
            Entry::Tariff(index) => (Stream::Tariff, self.tariff(index, key, value)),
            Entry::Company(index) => (Stream::Company, self.company_record(index, key, value)),
            Entry::Driver(index) => (Stream::Driver, self.driver_record(index, key, value)),
            Entry::Vehicle(index) => (Stream::Vehicle, self.vehicle_record(index, key, value)),
        }
    }

    fn tariff(&self, index: u64, key: &mut Vec<u8>, value: &mut Vec<u8>) -> bool {
        let (name, rate, devices) = TARIFFS[index as usize];
        let _ = write!(key, "t-{}", index + 1);
        let _ = write!(
            value,
            "{{\"tariff_id\":\"t-{}\",\"name\":\"{name}\",\"limits\":{{\"messages_per_s\":{rate},\"devices\":{devices}}}}}",
            index + 1
        );
        true
    }

    fn company_record(&self, index: u64, key: &mut Vec<u8>, value: &mut Vec<u8>) -> bool {
        let mut random = self.draw(1, index, 0);
        let name = COMPANY_NAMES[index as usize % COMPANY_NAMES.len()];
        let kind = COMPANY_KINDS[random.below(COMPANY_KINDS.len() as u64) as usize];
        let tariff = 1 + random.below(TARIFFS.len() as u64);
        let zone = time_zone(self.countries[index as usize % self.countries.len()]);
        company_id(index, key);
        let _ = write!(value, "{{\"company_id\":\"c-{index:05}\",\"name\":\"{name} {kind} {}\"", index + 1);
        let _ = write!(value, ",\"tariff_id\":\"t-{tariff}\",\"time_zone\":\"{zone}\"");
        // The others go by what is configured.
        let own = if index % 4 == 3 { ",\"offline_after_s\":60}" } else { "}" };
        value.extend_from_slice(own.as_bytes());
        true
    }

    fn driver_record(&self, index: u64, key: &mut Vec<u8>, value: &mut Vec<u8>) -> bool {
        let _ = write!(key, "d-{index:07}");
        if self.deleted.contains(&index) {
            return false;
        }
        let mut random = self.draw(2, index, self.renamed.get(&index).copied().unwrap_or(0));
        let first = FIRST_NAMES[random.below(FIRST_NAMES.len() as u64) as usize];
        let last = LAST_NAMES[random.below(LAST_NAMES.len() as u64) as usize];
        let mut fixed = self.draw(3, index, 0);
        let (phone, licence) = (fixed.below(100_000_000), fixed.below(10_000_000));
        let _ =
            write!(value, "{{\"driver_id\":\"d-{index:07}\",\"name\":\"{first} {last}\",\"phone\":\"+000{phone:08}\"");
        let _ = write!(value, ",\"licence\":\"L{licence:07}\",\"company_id\":\"");
        company_id(index % self.companies(), value);
        value.extend_from_slice(b"\"}");
        true
    }

    fn vehicle_record(&self, index: u64, key: &mut Vec<u8>, value: &mut Vec<u8>) -> bool {
        let mut random = self.draw(4, index, 0);
        let model = MODELS[random.below(MODELS.len() as u64) as usize];
        let country = self.countries[index as usize % self.countries.len()];
        let letter = |random: &mut Random| char::from(b'A' + random.below(26) as u8);
        let (a, b, number) = (letter(&mut random), letter(&mut random), random.below(10_000));
        let _ = write!(key, "v-{index:07}");
        let _ = write!(value, "{{\"vehicle_id\":\"v-{index:07}\",\"device_id\":\"");
        device_id(self.device(index), value);
        let _ = write!(value, "\",\"plate\":\"{country} {a}{b} {number:04}\",\"model\":\"{model}\"");
        let _ = write!(value, ",\"group_ids\":[\"g-{}\"", random.below(8));
        if random.below(4) == 0 {
            let _ = write!(value, ",\"g-{}\"", 8 + random.below(4));
        }
        value.extend_from_slice(b"],\"company_id\":\"");
        company_id(self.company(index), value);
        let _ = write!(value, "\",\"driver_id\":\"d-{:07}\",\"status\":\"active\"}}", self.driver(index));
        true
    }
}

/// Identifies the tracker number `index`.
pub(super) fn device_id(index: u64, out: &mut Vec<u8>) {
    let mut digits = *b"sim-0000000";
    let (mut rest, mut at) = (index, digits.len());
    while rest > 0 && at > 4 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits);
}

fn time_zone(country: &str) -> &'static str {
    match country {
        "PT" => "Europe/Lisbon",
        "ES" => "Europe/Madrid",
        "FR" => "Europe/Paris",
        "BE" => "Europe/Brussels",
        "LU" => "Europe/Luxembourg",
        "NL" => "Europe/Amsterdam",
        "CH" => "Europe/Zurich",
        "AT" => "Europe/Vienna",
        "CZ" => "Europe/Prague",
        "PL" => "Europe/Warsaw",
        "SK" => "Europe/Bratislava",
        "HU" => "Europe/Budapest",
        "SI" => "Europe/Ljubljana",
        "HR" => "Europe/Zagreb",
        "BA" => "Europe/Sarajevo",
        "RS" => "Europe/Belgrade",
        "ME" => "Europe/Podgorica",
        "AL" => "Europe/Tirane",
        "MK" => "Europe/Skopje",
        "BG" => "Europe/Sofia",
        "RO" => "Europe/Bucharest",
        "MD" => "Europe/Chisinau",
        "GR" => "Europe/Athens",
        "LT" => "Europe/Vilnius",
        "LV" => "Europe/Riga",
        "EE" => "Europe/Tallinn",
        "IT" => "Europe/Rome",
        "DK" => "Europe/Copenhagen",
        "SE" => "Europe/Stockholm",
        "NO" => "Europe/Oslo",
        "FI" => "Europe/Helsinki",
        "GB" => "Europe/London",
        "IE" => "Europe/Dublin",
        _ => "Europe/Berlin",
    }
}
