//! References that do not stand still: renamed, moved to others, deleted, back again, claimed twice, dangling, and now and then
//! a record that is none.

use serde_json::{Value, json};

use super::fleet::Sending;
use crate::restart::Dice;

const COMPANIES: usize = 12;
const TARIFFS: usize = 5;

/// All references as they stand.
pub struct References {
    vehicles: Vec<Vehicle>,
    drivers: usize,
    /// So that no two names are the same.
    renamed: u64,
}

#[derive(Clone)]
struct Vehicle {
    device: usize,
    company: usize,
    driver: usize,
}

fn gone(stream: &'static str, key: String) -> Sending {
    Sending { stream, key: Some(key.into_bytes()), value: None }
}

impl References {
    /// A vehicle for each tracker, and drivers.
    pub fn new(devices: usize) -> Self {
        let vehicle = |number| Vehicle { device: number, company: number % COMPANIES, driver: number };
        Self { vehicles: (0..devices).map(vehicle).collect(), drivers: devices, renamed: 0 }
    }

    /// What is there before the first message: most of it.
    pub fn first(&mut self, dice: &mut Dice) -> Vec<Sending> {
        let mut all: Vec<Sending> = (0..TARIFFS).map(|number| self.tariff(number)).collect();
        all.extend((0..COMPANIES).map(|number| self.company(number, number % TARIFFS)));
        for number in 0..self.vehicles.len() {
            all.push(self.driver(number));
            if dice.below(10) > 0 {
                all.push(self.vehicle(dice, number));
            }
        }
        all
    }

    /// One change.
    pub fn change(&mut self, dice: &mut Dice) -> Vec<Sending> {
        let number = dice.below(self.vehicles.len() as u64) as usize;
        let (driver, company) = (dice.below(self.drivers as u64) as usize, dice.below(COMPANIES as u64) as usize);
        let tariff = dice.below(TARIFFS as u64 + 1) as usize;
        match dice.below(40) {
            0..10 => vec![self.driver(driver)],
            10..14 => {
                self.vehicles[number].company = company;
                vec![self.vehicle(dice, number)]
            }
            14..18 => {
                self.vehicles[number].driver = driver;
                vec![self.vehicle(dice, number)]
            }
            18..22 => vec![self.vehicle(dice, number)],
            22..25 => vec![gone("vehicle", format!("v-{number}"))],
            25..28 => vec![gone("driver", format!("r-{driver}"))],
            28..31 => vec![self.company(company, tariff)],
            31 => vec![gone("company", format!("c-{company}"))],
            32 => vec![gone("tariff", format!("t-{tariff}"))],
            33 => vec![self.tariff(tariff.min(TARIFFS - 1))],
            34..37 => {
                let other = driver;
                let (one, two) = (self.vehicles[number].device, self.vehicles[other].device);
                (self.vehicles[number].device, self.vehicles[other].device) = (two, one);
                vec![self.vehicle(dice, number), self.vehicle(dice, other)]
            }
            37 => {
                self.vehicles[number].device = self.vehicles[driver].device;
                vec![self.vehicle(dice, number)]
            }
            // Deleted and back at once.
            38 => vec![gone("vehicle", format!("v-{number}")), self.vehicle(dice, number)],
            _ => vec![garbage(dice)],
        }
    }

    /// The last changes: what is deleted in the end is named by others.
    pub fn last(&mut self) -> Vec<Sending> {
        let mut dice = Dice(1);
        let mut all: Vec<Sending> = Vec::new();
        for number in [0, 2, 4] {
            self.vehicles[number] = Vehicle { device: number, company: number, driver: number };
            all.extend([self.vehicle(&mut dice, number), self.driver(number), self.company(number, 0)]);
        }
        all.extend(["r-0", "r-2"].map(|driver| gone("driver", driver.to_owned())));
        all.extend(["v-1", "v-3"].map(|vehicle| gone("vehicle", vehicle.to_owned())));
        all.push(gone("company", "c-4".to_owned()));
        all
    }

    fn new_name(&mut self, what: &str) -> String {
        self.renamed += 1;
        format!("{what} {}", self.renamed)
    }

    fn vehicle(&mut self, dice: &mut Dice, number: usize) -> Sending {
        let plate = self.new_name("HS");
        let Vehicle { device, company, driver } = self.vehicles[number].clone();
        let key = format!("v-{number}");
        let groups = json!([format!("g-{}", dice.below(5)), "all"]);
        let mut row = json!({"vehicle_id": key, "device_id": format!("d-{device}"), "plate": plate, "model": "M 7",
                             "company_id": format!("c-{company}"), "driver_id": format!("r-{driver}"), "group_ids": groups});
        match dice.below(30) {
            0 => row["company_id"] = Value::Null,
            1 => row["driver_id"] = json!(""),
            2 => row["device_id"] = Value::Null,
            3 => row["company_id"] = json!("c-nowhere"),
            _ => {}
        }
        Sending::json("vehicle", &key, &row)
    }

    fn driver(&mut self, number: usize) -> Sending {
        let (key, name) = (format!("r-{number}"), self.new_name("Driver"));
        Sending::json(
            "driver",
            &key,
            &json!({"driver_id": key, "name": name, "phone": format!("+41 {}", self.renamed)}),
        )
    }

    fn company(&mut self, number: usize, tariff: usize) -> Sending {
        let (key, name) = (format!("c-{number}"), self.new_name("Company"));
        let mut row = json!({"company_id": key, "name": name, "tariff_id": format!("t-{tariff}"), "time_zone": "UTC"});
        if number.is_multiple_of(3) {
            row["offline_after_s"] = json!(2);
        }
        Sending::json("company", &key, &row)
    }

    fn tariff(&mut self, number: usize) -> Sending {
        let (key, name) = (format!("t-{number}"), self.new_name("Tariff"));
        Sending::json("tariff", &key, &json!({"tariff_id": key, "name": name, "limits": {"km": number}}))
    }
}

/// A record that is no reference.
fn garbage(dice: &mut Dice) -> Sending {
    match dice.below(4) {
        0 => Sending::json("driver", "r-0", &json!({"driver_id": "r-1", "name": "of another key"})),
        1 => Sending::json("company", "c-0", &json!({"company_id": "c-0", "offline_after_s": "soon"})),
        2 => gone("vehicle", "no id at all".to_owned()),
        _ => Sending { stream: "tariff", key: Some(b"t-0".to_vec()), value: Some(b"{\"tariff_id\":\"t-0\"".to_vec()) },
    }
}
