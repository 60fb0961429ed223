//! What the main job has to answer, computed the plain way: a fold over the log tick by tick, every table a map, every join a
//! search, silence by looking at every device at every tick. Shares no code with the operators but the streams' names.

use std::collections::{BTreeMap, VecDeque};

use operators::record::Stream as Topic;
use operators::time::Tick;

use crate::cell::{Cell, Change, History, Row, key_of, note, or_null, row, text};
use crate::drive::Options;
use crate::log::{Body, Event, Log, Record, START};

/// The right output of a log.
#[derive(Default)]
pub struct Answer {
    /// Position of each event that stays, in canonical order.
    pub distinct: Vec<(i32, i64)>,
    /// Enriched events by position; only the columns added.
    pub enriched: BTreeMap<(i32, i64), Row>,
    /// Code of each event that no window takes, by position.
    pub late: BTreeMap<(i32, i64), String>,
    pub vehicle_events: Vec<Change>,
    pub links: History,
    pub connectivity: History,
    pub vehicle_state: History,
    pub company_minute: History,
}

#[derive(Default)]
struct Fold {
    /// Rows of the reference tables by topic and key.
    references: BTreeMap<(Topic, String), Row>,
    links: BTreeMap<String, Row>,
    seen: BTreeMap<String, Seen>,
    heard: BTreeMap<String, Heard>,
    latest: BTreeMap<String, Latest>,
    windows: BTreeMap<(String, i64), Vec<Option<f64>>>,
    windows_changed: bool,
}

/// A device's last sixteen distinct events.
#[derive(Default)]
struct Seen {
    events: VecDeque<(i64, i64)>,
    last: Tick,
}

struct Heard {
    last: Tick,
    online: bool,
    streak: u32,
    /// In the published row: when it came online, or was last heard of before it went offline.
    since: Tick,
}

struct Latest {
    order: (i64, i64, i32, i64),
    speed: Option<f64>,
    fuel: Option<f64>,
    satellites: Option<i32>,
    ignition: Option<bool>,
}

/// Folds the log up to, and without, tick `end`.
pub fn answer(log: &Log, options: Options, end: Tick) -> Answer {
    let mut by_tick: BTreeMap<Tick, Vec<(Topic, &Record)>> = BTreeMap::new();
    for topic in Topic::ALL {
        for record in log.canonical(topic) {
            by_tick.entry(record.at.tick).or_default().push((topic, record));
        }
    }
    let mut answer = Answer::default();
    let mut fold = Fold::default();
    let mut tick = START;
    while tick < end {
        let records = by_tick.remove(&tick).unwrap_or_default();
        // An event sees what was linked before its tick, a silence what is linked at its end.
        let before = fold.links.clone();
        for (topic, record) in &records {
            if let (Topic::Telemetry, Body::Event(event)) = (topic, &record.body) {
                fold.event(event, record, &before, options, &mut answer);
            }
        }
        for (topic, record) in &records {
            if let Body::Reference(key, fields) = &record.body {
                match fields {
                    Some(fields) => fold.references.insert((*topic, key.clone()), fields.clone()),
                    None => fold.references.remove(&(*topic, key.clone())),
                };
            }
        }
        if records.iter().any(|(topic, _)| topic.is_table()) {
            fold.links = fold.joined();
        }
        let silences = fold.silences(tick, options, &mut answer);
        if silences || !records.is_empty() {
            fold.note_tables(tick, &mut answer);
        }
        if tick.is_multiple_of(options.window.emit_ms) {
            fold.note_windows(tick, &mut answer);
        }
        tick += options.silence.tick_ms;
    }
    answer
}

impl Fold {
    fn event(
        &mut self,
        event: &Event,
        record: &Record,
        links: &BTreeMap<String, Row>,
        options: Options,
        answer: &mut Answer,
    ) {
        let (tick, position) = (record.at.tick, (record.at.partition, record.at.offset));
        let seen = self.seen.entry(event.device.clone()).or_default();
        if seen.last + options.horizon_ms <= tick {
            seen.events.clear();
        }
        seen.last = tick;
        if seen.events.contains(&(event.ts, event.seq)) {
            return;
        }
        seen.events.push_back((event.ts, event.seq));
        if seen.events.len() > operators::deduplicate::REMEMBERED {
            seen.events.pop_front();
        }
        answer.distinct.push(position);

        let link = link_of(links, &event.device);
        let columns = operators::record::output::ENRICHMENT;
        let added = columns.map(|name| (name.to_owned(), link.map_or(Cell::Null, |link| link[name].clone())));
        answer.enriched.insert(position, Row::from(added));
        if let Some(Cell::Text(company)) = link.map(|link| &link["company_id"]) {
            self.count(event, tick, company, options, position, answer);
        }
        self.hear(&event.device, tick, threshold(link, options), link, options, answer);
        self.remember(event, record);
    }

    fn count(
        &mut self,
        event: &Event,
        tick: Tick,
        company: &str,
        options: Options,
        position: (i32, i64),
        answer: &mut Answer,
    ) {
        let window = options.window;
        let start = event.ts.div_euclid(window.size_ms) * window.size_ms;
        if start > tick as i64 + window.ahead_ms_max {
            answer.late.insert(position, "window_ahead".to_owned());
        } else if (tick as i64) > start + window.size_ms + window.retention_ms {
            answer.late.insert(position, "window_sealed".to_owned());
        } else {
            self.windows.entry((company.to_owned(), start)).or_default().push(event.speed);
            self.windows_changed = true;
        }
    }

    fn hear(
        &mut self,
        device: &str,
        tick: Tick,
        threshold: u64,
        link: Option<&Row>,
        options: Options,
        answer: &mut Answer,
    ) {
        match self.heard.get_mut(device) {
            None => {
                self.heard.insert(device.to_owned(), Heard { last: tick, online: true, streak: 0, since: tick });
                answer.vehicle_events.push(happened("device.online", device, link, tick, tick));
            }
            Some(heard) => {
                if !heard.online {
                    let follows = heard.streak > 0 && tick - heard.last <= threshold;
                    heard.streak = if follows { heard.streak + 1 } else { 1 };
                    if heard.streak >= options.silence.online_after_messages {
                        (heard.online, heard.since) = (true, tick);
                        answer.vehicle_events.push(happened("device.online", device, link, tick, tick));
                    }
                }
                heard.last = tick;
            }
        }
    }

    /// Whether any device went silent.
    fn silences(&mut self, tick: Tick, options: Options, answer: &mut Answer) -> bool {
        let before = answer.vehicle_events.len();
        for (device, heard) in &mut self.heard {
            let link = link_of(&self.links, device);
            if heard.online && heard.last + threshold(link, options) <= tick {
                (heard.online, heard.streak, heard.since) = (false, 0, heard.last);
                answer.vehicle_events.push(happened("device.offline", device, link, heard.last, tick));
            }
        }
        answer.vehicle_events.len() > before
    }

    fn remember(&mut self, event: &Event, record: &Record) {
        let order = (event.ts, event.seq, record.at.partition, record.at.offset);
        let new = Latest { order, speed: None, fuel: None, satellites: None, ignition: None };
        let first = !self.latest.contains_key(&event.device);
        let latest = self.latest.entry(event.device.clone()).or_insert(new);
        if first || order > latest.order {
            latest.order = order;
            latest.speed = event.speed.or(latest.speed);
            latest.fuel = event.fuel.or(latest.fuel);
            latest.satellites = event.satellites.or(latest.satellites);
            latest.ignition = event.ignition.or(latest.ignition);
        }
    }

    fn find(&self, topic: Topic, key: &Cell) -> Option<&Row> {
        let Cell::Text(key) = key else { return None };
        self.references.get(&(topic, key.clone()))
    }

    /// vehicle → driver, company → tariff, by searching.
    fn joined(&self) -> BTreeMap<String, Row> {
        let take = |row: Option<&Row>, name: &str| row.map_or(Cell::Null, |row| row[name].clone());
        let mut links = BTreeMap::new();
        for ((topic, key), vehicle) in &self.references {
            if *topic != Topic::Vehicle {
                continue;
            }
            let company = self.find(Topic::Company, &vehicle["company_id"]);
            let driver = self.find(Topic::Driver, &vehicle["driver_id"]);
            let tariff = company.and_then(|company| self.find(Topic::Tariff, &company["tariff_id"]));
            let mut link: Row = ["vehicle_id", "device_id", "plate", "model", "group_ids", "company_id", "driver_id"]
                .iter()
                .map(|name| ((*name).to_owned(), vehicle[*name].clone()))
                .collect();
            link.extend(row([
                ("company_name", take(company, "name")),
                ("time_zone", take(company, "time_zone")),
                ("offline_after_s", take(company, "offline_after_s")),
                ("tariff_id", take(company, "tariff_id")),
                ("tariff_name", take(tariff, "name")),
                ("driver_name", take(driver, "name")),
                ("driver_phone", take(driver, "phone")),
            ]));
            links.insert(key.clone(), link);
        }
        links
    }

    fn state(&self) -> BTreeMap<String, Row> {
        let mut state = BTreeMap::new();
        for link in self.links.values() {
            let Cell::Text(device) = &link["device_id"] else { continue };
            let Some(latest) = self.latest.get(device) else { continue };
            let offline = self.heard.get(device).filter(|heard| !heard.online).map(|heard| heard.since);
            let status = match (offline, latest.speed, latest.ignition) {
                (Some(_), _, _) => "offline",
                (None, Some(speed), _) if speed >= 3.0 => "moving",
                (None, _, Some(true)) => "idle",
                _ => "parked",
            };
            let mut cells = link.clone();
            cells.retain(|name, _| name != "time_zone" && name != "offline_after_s");
            let never = ["lat", "lon", "altitude_m", "heading_deg", "engine_temp_c", "odometer_km", "battery_v"];
            cells.extend(never.map(|name| (name.to_owned(), Cell::Null)));
            cells.extend(row([
                ("status", text(status)),
                ("ts", Cell::Int(latest.order.0)),
                ("seq", Cell::Int(latest.order.1)),
                ("speed_kmh", or_null(latest.speed, Cell::Float)),
                ("fuel_level_pct", or_null(latest.fuel, Cell::Float)),
                ("satellites", or_null(latest.satellites, |n| Cell::Int(i64::from(n)))),
                ("ignition", or_null(latest.ignition, Cell::Bool)),
                ("offline_since", or_null(offline, |tick| Cell::Int(tick as i64))),
            ]));
            state.insert(key_of(link, &["vehicle_id"]), cells);
        }
        state
    }

    fn note_tables(&self, tick: Tick, answer: &mut Answer) {
        let links = self.links.values().map(|link| (key_of(link, &["vehicle_id"]), link.clone())).collect();
        note(&mut answer.links, tick, &links);
        let connectivity = self.heard.iter().map(|(device, heard)| {
            let (online, since) = (Cell::Bool(heard.online), Cell::Int(heard.since as i64));
            let cells = row([("device_id", text(device)), ("online", online), ("since", since)]);
            (key_of(&cells, &["device_id"]), cells)
        });
        note(&mut answer.connectivity, tick, &connectivity.collect());
        note(&mut answer.vehicle_state, tick, &self.state());
    }

    fn note_windows(&mut self, tick: Tick, answer: &mut Answer) {
        if std::mem::take(&mut self.windows_changed) {
            let windows = self.windows.iter().map(|((company, start), speeds)| {
                let cells = minute(company, *start, speeds);
                (key_of(&cells, &["company_id", "window_start"]), cells)
            });
            note(&mut answer.company_minute, tick, &windows.collect());
        }
    }
}

fn minute(company: &str, start: i64, speeds: &[Option<f64>]) -> Row {
    let known: Vec<i64> = speeds.iter().flatten().map(|speed| (speed * 1_000.0).round() as i64).collect();
    let average = known.iter().sum::<i64>() as f64 / known.len() as f64 / 1_000.0;
    row([
        ("company_id", text(company)),
        ("window_start", Cell::Int(start)),
        ("fixes", Cell::Int(speeds.len() as i64)),
        ("average_speed_kmh", if known.is_empty() { Cell::Null } else { Cell::Float(average) }),
        ("top_speed_kmh", or_null(known.iter().max(), |&top| Cell::Float(top as f64 / 1_000.0))),
    ])
}

/// Of the vehicles that claim a device, the one with the smallest id.
fn link_of<'a>(links: &'a BTreeMap<String, Row>, device: &str) -> Option<&'a Row> {
    links.values().find(|link| link["device_id"] == text(device))
}

fn threshold(link: Option<&Row>, options: Options) -> u64 {
    let ms = match link.map(|link| &link["offline_after_s"]) {
        Some(Cell::Int(seconds)) if *seconds > 0 => *seconds as u64 * 1_000,
        _ => options.silence.offline_after_ms,
    };
    ms.div_ceil(options.silence.tick_ms) * options.silence.tick_ms
}

fn happened(kind: &str, device: &str, link: Option<&Row>, since: Tick, tick: Tick) -> Change {
    let of = |name: &str| link.map_or(Cell::Null, |link| link[name].clone());
    let cells = row([
        ("kind", text(kind)),
        ("device_id", text(device)),
        ("vehicle_id", of("vehicle_id")),
        ("company_id", of("company_id")),
        ("since", Cell::Int(since as i64)),
    ]);
    Change { tick, upsert: true, cells }
}
