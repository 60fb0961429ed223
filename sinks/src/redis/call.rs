//! From steps to script calls: the newest change of each vehicle, a company's vehicles side by side, so many to a call.
//!
//! Invariant: a vehicle is in one call at most, so the order in which calls are answered does not matter.

use ::redis::Cmd;
use hashbrown::HashTable;
use operators::batch::key_hash;

use super::row::{Columns, Scratch};
use super::{Stream, key};
use crate::json;

/// Where a change stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    batch: u32,
    row: u32,
}

/// Changes that go to a script together.
#[derive(Debug, PartialEq, Eq, Hash, Clone, Copy)]
enum Group<'a> {
    /// Upserts of vehicles of one company.
    Company(Option<&'a str>),
    /// Deletes of vehicle_state, or any changes of vehicle_links.
    Rest,
}

/// The calls that bring changes of one stream into Redis.
pub(super) struct Calls<'a> {
    stream: Stream,
    batches: Vec<Columns<'a>>,
    places: Vec<Place>,
    /// Of each call, the groups and the end of their rows in `places`.
    plan: Vec<Vec<(Group<'a>, std::ops::Range<usize>)>>,
    next: usize,
    scratch: Scratch,
}

/// What is the same for all calls.
pub(super) struct Frame<'a> {
    pub(super) script: &'a str,
    pub(super) prefix: &'a str,
    pub(super) tombstone_ttl_ms: u64,
}

impl<'a> Calls<'a> {
    pub(super) fn new(stream: Stream, batches: Vec<Columns<'a>>, script_vehicles_max: usize) -> Self {
        let mut groups: Vec<(Group<'a>, Vec<Place>)> = Vec::new();
        let mut found: HashTable<usize> = HashTable::new();
        let hash = |group: &Group<'_>| match group {
            Group::Company(Some(company)) => key_hash(company.as_bytes()),
            Group::Company(None) => 1,
            Group::Rest => 0,
        };
        for place in newest(&batches) {
            let (columns, row) = (&batches[place.batch as usize], place.row as usize);
            let group = match stream {
                Stream::VehicleState if !columns.is_deleted(row) => Group::Company(columns.company(row)),
                _ => Group::Rest,
            };
            let index = match found.find(hash(&group), |&index| groups[index].0 == group) {
                Some(&index) => index,
                None => {
                    groups.push((group, Vec::new()));
                    let index = groups.len() - 1;
                    found.insert_unique(hash(&group), index, |&index| hash(&groups[index].0));
                    index
                }
            };
            groups[index].1.push(place);
        }
        let (places, plan) = planned(groups, script_vehicles_max);
        Self { stream, batches, places, plan, next: 0, scratch: Scratch::default() }
    }

    /// Changes that are left after taking the newest of each vehicle.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn stream(&self) -> Stream {
        self.stream
    }

    /// The next call.
    pub(super) fn next(&mut self, frame: &Frame<'_>) -> Option<Cmd> {
        let groups = self.plan.get(self.next)?;
        self.next += 1;
        let rows: usize = groups.iter().map(|(_, rows)| rows.len()).sum();
        let mut call = Cmd::with_capacity(2 * rows + 8, rows * 2_048);
        call.arg("EVALSHA").arg(frame.script).arg(0).arg(frame.prefix).arg(frame.tombstone_ttl_ms);
        let mut packed = Vec::with_capacity(1_024);
        for (group, rows) in groups {
            let places = &self.places[rows.clone()];
            match (self.stream, group) {
                (Stream::VehicleState, Group::Company(company)) => {
                    put_upserts(&mut call, &self.batches, places, *company, &mut self.scratch);
                }
                (Stream::VehicleState, Group::Rest) => {
                    call.arg("delete").arg(places.len());
                    for place in places {
                        packed.clear();
                        self.batches[place.batch as usize].put_delete(
                            place.row as usize,
                            &mut self.scratch,
                            &mut packed,
                        );
                        call.arg(&packed[..]);
                    }
                }
                (Stream::VehicleLinks, _) => {
                    for place in places {
                        packed.clear();
                        self.batches[place.batch as usize].put_links(
                            place.row as usize,
                            &mut self.scratch,
                            &mut packed,
                        );
                        call.arg(&packed[..]);
                    }
                }
            }
        }
        Some(call)
    }
}

fn put_upserts(
    call: &mut Cmd,
    batches: &[Columns<'_>],
    places: &[Place],
    company: Option<&str>,
    scratch: &mut Scratch,
) {
    // The script wants the message before the rows, so all of them are packed first.
    let mut message = json::Text::new();
    message.raw(b"{\"upsert\":[");
    let mut packed = Vec::with_capacity(places.len() * 1_024);
    let mut ends = Vec::with_capacity(places.len() * 2);
    for (index, place) in places.iter().enumerate() {
        if index > 0 {
            message.raw(b",");
        }
        let columns = &batches[place.batch as usize];
        ends.push(columns.put_state(place.row as usize, scratch, &mut packed, &mut message));
        ends.push(packed.len());
    }
    message.raw(b"],\"remove\":[]}");
    call.arg("upsert").arg(company.map_or(key::NONE.into(), key::encode).as_bytes());
    call.arg(places.len()).arg(message.as_bytes());
    let mut begin = 0;
    for end in ends {
        call.arg(&packed[begin..end]);
        begin = end;
    }
}

type Plan<'a> = Vec<Vec<(Group<'a>, std::ops::Range<usize>)>>;

/// All places in the order of their groups, and which of them each call takes.
fn planned(groups: Vec<(Group<'_>, Vec<Place>)>, script_vehicles_max: usize) -> (Vec<Place>, Plan<'_>) {
    let mut places = Vec::new();
    let mut plan: Plan<'_> = Vec::new();
    let mut room = 0;
    for (group, mut rows) in groups {
        let mut at = places.len();
        places.append(&mut rows);
        while at < places.len() {
            if room == 0 {
                plan.push(Vec::new());
                room = script_vehicles_max;
            }
            let end = places.len().min(at + room);
            plan.last_mut().expect("a call was just begun").push((group, at..end));
            room -= end - at;
            at = end;
        }
    }
    (places, plan)
}

/// Where the newest change of each vehicle stands, in the order in which they came.
fn newest(batches: &[Columns<'_>]) -> Vec<Place> {
    let rows = batches.iter().map(Columns::len).sum();
    let mut standing: HashTable<Place> = HashTable::with_capacity(rows);
    let columns = |place: &Place| (&batches[place.batch as usize], place.row as usize);
    let id = |place: &Place| {
        let (columns, row) = columns(place);
        columns.id(row)
    };
    let order = |place: &Place| {
        let (columns, row) = columns(place);
        columns.order(row)
    };
    for (batch, columns) in batches.iter().enumerate() {
        for row in 0..columns.len() {
            let place = Place { batch: batch as u32, row: row as u32 };
            let hash = key_hash(columns.id(row).as_bytes());
            match standing.find_mut(hash, |other| id(other) == columns.id(row)) {
                Some(present) if order(present) <= order(&place) => *present = place,
                Some(_) => {}
                None => {
                    standing.insert_unique(hash, place, |other| key_hash(id(other).as_bytes()));
                }
            }
        }
    }
    let mut places: Vec<Place> = standing.into_iter().collect();
    places.sort_unstable();
    places
}
