//! Catches a client that is told too little, too much or in the wrong order: a model client applies what subscriptions give
//! it under random changes, filters, updates and lateness, and has to have the current state at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray, UInt64Array,
};
use arrow::datatypes::DataType;
use operators::batch::{DELETED, TICK};
use operators::record::output::vehicle_state;
use proptest::prelude::*;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::context::Context;
use super::filter::Bounds;
use super::outbox::Kind;
use super::selection::{Patch, Selection};
use super::subscription::{Next, Subscription};
use super::{Edge, EdgeSink, Options, STREAM};
use crate::step::{Rows, Sink, Step};

pub(super) fn options() -> Options {
    serde_json::from_value(serde_json::json!({
        "allow_remote": false, "origins": "", "server_id": "test", "http_connections_max": 1000, "head_ms_max": 10_000,
        "stall_ms_max": 60_000, "send_buffer_bytes": 262_144, "snapshots_max": 4, "snapshot_ms_max": 60_000,
        "connections_max": 1000, "subscriptions_max": 50, "vehicles_max": 10_000, "message_bytes_max": 65_536,
        "messages_per_minute_max": 100, "strikes_max": 10, "outbox_bytes_max": 262_144, "slow_ms": 30_000,
        "delta_ms": 500, "gather_ms": 10, "heartbeat_ms": 25_000, "pong_ms_max": 10_000, "idle_ms": 60_000,
        "ring_rows_max": 200_000, "shutdown_ms_max": 5_000, "retry_ms_min": 1_000,
    }))
    .unwrap()
}

/// A vehicle as the tests make it; every other column is null.
#[derive(Clone, Debug, PartialEq)]
struct Vehicle {
    id: String,
    company: Option<String>,
    position: Option<(f64, f64)>,
    speed: Option<f64>,
    satellites: Option<i32>,
    deleted: bool,
    tick: u64,
}

fn batch(rows: &[Vehicle]) -> RecordBatch {
    let schema = vehicle_state();
    let column = |field: &arrow::datatypes::FieldRef| -> ArrayRef {
        let floats =
            |get: fn(&Vehicle) -> Option<f64>| -> ArrayRef { Arc::new(rows.iter().map(get).collect::<Float64Array>()) };
        match (field.name().as_str(), field.data_type()) {
            ("vehicle_id", _) => Arc::new(StringViewArray::from_iter_values(rows.iter().map(|row| &row.id))),
            ("company_id", _) => Arc::new(rows.iter().map(|row| row.company.as_deref()).collect::<StringViewArray>()),
            ("group_ids", _) => Arc::new(rows.iter().map(|_| Some("[\"north\"]")).collect::<StringViewArray>()),
            ("lat", _) => floats(|row| row.position.map(|at| at.0)),
            ("lon", _) => floats(|row| row.position.map(|at| at.1)),
            ("speed_kmh", _) => floats(|row| row.speed),
            ("satellites", _) => Arc::new(rows.iter().map(|row| row.satellites).collect::<Int32Array>()),
            (DELETED, _) => Arc::new(rows.iter().map(|row| Some(row.deleted)).collect::<BooleanArray>()),
            (TICK, _) => Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.tick))),
            (_, DataType::Utf8View) => Arc::new(StringViewArray::new_null(rows.len())),
            (_, DataType::Float64) => Arc::new(Float64Array::new_null(rows.len())),
            (_, DataType::Int64) => Arc::new(Int64Array::new_null(rows.len())),
            (_, DataType::Boolean) => Arc::new(BooleanArray::new_null(rows.len())),
            (name, other) => panic!("{name}: {other}"),
        }
    };
    let columns = schema.fields().iter().map(column).collect();
    RecordBatch::try_new(schema.clone(), columns).unwrap()
}

fn step(upto: u64, rows: &[Vehicle]) -> Step {
    Step { stream: STREAM, worker: 0, from: 0, upto, rows: vec![Rows::Upsert(batch(rows))] }
}

type Shown = BTreeMap<String, Map<String, Value>>;

/// A row as a client shows it: without its version, which need not move while nothing that it sees does.
fn shown(row: &Map<String, Value>) -> Map<String, Value> {
    row.iter()
        .filter(|(name, value)| *name != "version" && !value.is_null())
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

/// What a client knows.
#[derive(Default)]
struct Client {
    rows: Shown,
    versions: BTreeMap<String, u64>,
    in_snapshot: bool,
    messages: usize,
}

impl Client {
    fn hear(&mut self, kind: Kind, text: &str) {
        let message: Value = serde_json::from_str(text).unwrap();
        self.messages += 1;
        let empty = Vec::new();
        if kind == Kind::Snapshot {
            if !self.in_snapshot {
                self.rows.clear();
            }
            self.in_snapshot = message["more"].as_bool().unwrap();
        }
        for row in message["rows"].as_array().or(message["upsert"].as_array()).unwrap_or(&empty) {
            let row = row.as_object().unwrap();
            let id = row["vehicle_id"].as_str().unwrap();
            let version = row["version"].as_u64().unwrap();
            let last = self.versions.insert(id.to_owned(), version).unwrap_or(0);
            assert!(version >= last, "{id} went back from {last} to {version}");
            if kind == Kind::Snapshot || !self.rows.contains_key(id) {
                assert!(row.values().all(|value| !value.is_null()), "a whole row has no nulls: {row:?}");
            }
            let entry = self.rows.entry(id.to_owned()).or_default();
            entry.extend(row.clone());
        }
        for id in message["remove"].as_array().unwrap_or(&empty) {
            assert!(self.rows.remove(id.as_str().unwrap()).is_some(), "{id} was not there");
        }
    }

    fn listen(&mut self, subscription: &mut Subscription, messages_max: usize) {
        let mut messages = 0;
        loop {
            match subscription.next(Instant::now()) {
                Next::Nothing => return,
                Next::Looking => {}
                Next::Message(message) => {
                    let kind = message.kind;
                    self.hear(kind, message.into_message().to_text().unwrap());
                    messages += 1;
                    if messages >= messages_max {
                        return;
                    }
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Take(Vec<Vehicle>),
    Publish,
    /// One of the clients takes this many messages at most.
    Listen(usize, usize),
    Update(usize, Asked),
    Return(usize, Asked),
}

#[derive(Clone, Debug)]
struct Asked {
    companies: Vec<u8>,
    bounds: Option<(f64, f64)>,
    few_fields: bool,
}

impl Asked {
    fn patch(&self) -> Patch {
        let fields = if self.few_fields { vec!["lat".to_owned(), "speed_kmh".to_owned()] } else { Vec::new() };
        Patch {
            company: Some(self.companies.iter().map(|n| format!("c{n}")).collect()),
            bounds: Some(self.bounds.map(|(low, high)| Bounds::new([low, low, high, high]).unwrap())),
            fields: Some(fields),
            ..Patch::default()
        }
    }

    fn expected(&self, vehicles: &BTreeMap<String, Vehicle>) -> Shown {
        let within = |value: f64| self.bounds.is_none_or(|(low, high)| (low..=high).contains(&value));
        let admitted = vehicles.values().filter(|vehicle| {
            let company = vehicle.company.as_deref().unwrap_or("");
            !vehicle.deleted
                && (self.companies.is_empty() || self.companies.iter().any(|n| company == format!("c{n}")))
                && vehicle.position.map_or(self.bounds.is_none(), |(lat, lon)| within(lat) && within(lon))
        });
        let row = |vehicle: &Vehicle| {
            let mut all = serde_json::json!({
                "vehicle_id": vehicle.id, "company_id": vehicle.company, "group_ids": ["north"],
                "lat": vehicle.position.map(|at| at.0), "lon": vehicle.position.map(|at| at.1),
                "speed_kmh": vehicle.speed, "satellites": vehicle.satellites,
            });
            let all = all.as_object_mut().unwrap();
            if self.few_fields {
                all.retain(|name, _| ["vehicle_id", "lat", "speed_kmh"].contains(&name.as_str()));
            }
            shown(all)
        };
        admitted.map(|vehicle| (vehicle.id.clone(), row(vehicle))).collect()
    }
}

/// Numbers that a JSON parser reads exactly.
fn number(below: u32) -> impl Strategy<Value = f64> {
    (0..below * 64).prop_map(|n| f64::from(n) / 64.0)
}

fn vehicle() -> impl Strategy<Value = Vehicle> {
    let company = proptest::option::of((0..3u8).prop_map(|n| format!("c{n}")));
    let position = proptest::option::weighted(0.9, (number(10), number(10)));
    let (speed, satellites) = (proptest::option::of(number(90)), proptest::option::of(0..20i32));
    (0..30u32, company, position, speed, satellites, proptest::bool::weighted(0.15), 1..60u64).prop_map(
        |(id, company, position, speed, satellites, deleted, tick)| Vehicle {
            id: format!("v{id}"),
            company,
            position,
            speed,
            satellites,
            deleted,
            tick,
        },
    )
}

fn asked() -> impl Strategy<Value = Asked> {
    let bounds = proptest::option::of((number(10), number(10)).prop_map(|(a, b)| (a.min(b), a.max(b))));
    (proptest::collection::vec(0..3u8, 0..3), bounds, any::<bool>()).prop_map(|(companies, bounds, few_fields)| Asked {
        companies,
        bounds,
        few_fields,
    })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => proptest::collection::vec(vehicle(), 1..8).prop_map(Event::Take),
        2 => Just(Event::Publish),
        3 => (0..3usize, 1..4usize).prop_map(|(client, messages)| Event::Listen(client, messages)),
        1 => (0..3usize, asked()).prop_map(|(client, asked)| Event::Update(client, asked)),
        1 => (0..3usize, asked()).prop_map(|(client, asked)| Event::Return(client, asked)),
    ]
}

/// Three clients at an edge.
struct World {
    context: Arc<Context>,
    sink: EdgeSink,
    vehicles: BTreeMap<String, Vehicle>,
    clients: Vec<(Subscription, Client, Asked)>,
    /// The highest tick so far. A client never sees a key's older row, wherever it was deleted meanwhile.
    upto: u64,
}

fn subscribe(context: &Arc<Context>, asked: &Asked) -> Subscription {
    let layout = context.hub.reader().layout();
    let selection = Selection::all(layout).patched(&asked.patch(), layout, 100).unwrap();
    Subscription::new(context, "1".to_owned(), selection, Duration::ZERO)
}

impl World {
    fn new(ring_rows_max: usize, asked: &[Asked]) -> Self {
        let (edge, sink) = Edge::new(Options { ring_rows_max, ..options() });
        let clients = asked.iter().map(|asked| (subscribe(&edge.0, asked), Client::default(), asked.clone())).collect();
        Self { context: edge.0, sink, vehicles: BTreeMap::new(), clients, upto: 0 }
    }

    async fn happen(&mut self, event: Event) {
        match event {
            Event::Take(rows) => {
                self.upto += 1;
                self.sink.apply(&step(self.upto, &rows)).await.unwrap();
                for row in rows {
                    let newer = |old: &Vehicle| (row.tick, !row.deleted) >= (old.tick, !old.deleted);
                    if self.vehicles.get(&row.id).is_none_or(newer) {
                        self.vehicles.insert(row.id.clone(), row);
                    }
                }
            }
            Event::Publish => self.context.hub.publish(),
            Event::Listen(client, messages) => {
                let (subscription, client, _) = &mut self.clients[client];
                client.listen(subscription, messages);
            }
            Event::Update(client, asked) => {
                let (subscription, _, now) = &mut self.clients[client];
                let layout = self.context.hub.reader().layout();
                let selection = subscription.wanted().patched(&asked.patch(), layout, 100).unwrap();
                subscription.update(selection, None);
                *now = asked;
            }
            Event::Return(client, asked) => {
                self.clients[client] = (subscribe(&self.context, &asked), Client::default(), asked);
            }
        }
    }

    fn check(&mut self) {
        self.context.hub.publish();
        for (subscription, client, asked) in &mut self.clients {
            client.listen(subscription, usize::MAX);
            let shown: Shown = client.rows.iter().map(|(id, row)| (id.clone(), shown(row))).collect();
            let expected = asked.expected(&self.vehicles);
            let differs = expected.keys().chain(shown.keys()).find(|id| shown.get(*id) != expected.get(*id));
            if let Some(id) = differs {
                panic!("{asked:?}: {id} is shown as {:?}, not {:?}", shown.get(id), expected.get(id));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_client_ends_with_the_current_state(
        events in proptest::collection::vec(event(), 1..60),
        asked in proptest::collection::vec(asked(), 3),
        ring_rows_max in prop_oneof![Just(5usize), Just(20), Just(100_000)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(ring_rows_max, &asked);
            for event in events {
                world.happen(event).await;
            }
            world.check();
        });
    }
}

fn plain(id: &str, speed: f64, tick: u64) -> Vehicle {
    let position = Some((1.0, 2.0));
    Vehicle { id: id.to_owned(), company: None, position, speed: Some(speed), satellites: None, deleted: false, tick }
}

const ALL: Asked = Asked { companies: Vec::new(), bounds: None, few_fields: false };

#[tokio::test]
async fn deltas_hold_what_changed_and_nothing_else() {
    let mut world = World::new(1_000, &[ALL]);
    world.happen(Event::Take(vec![plain("a", 1.0, 10), plain("b", 1.0, 10)])).await;
    world.check();
    let mut cleared = plain("a", 2.0, 20);
    cleared.position = None;
    let gone = Vehicle { deleted: true, ..plain("b", 1.0, 20) };
    world.happen(Event::Take(vec![cleared, gone])).await;
    world.context.hub.publish();
    let Next::Looking = world.clients[0].0.next(Instant::now()) else { panic!("there is news") };
    let Next::Message(message) = world.clients[0].0.next(Instant::now()) else { panic!("there is a message") };
    assert_eq!(
        message.into_message().to_text().unwrap(),
        r#"{"type":"delta","id":"1","version":20,"upsert":[{"vehicle_id":"a","version":20,"lat":null,"lon":null,"speed_kmh":2.0}],"remove":["b"]}"#
    );
}

#[tokio::test]
async fn the_same_step_twice_publishes_nothing() {
    let mut world = World::new(1_000, &[ALL]);
    let rows = vec![plain("a", 1.0, 10), plain("b", 1.0, 10)];
    world.happen(Event::Take(rows.clone())).await;
    world.check();
    let messages = world.clients[0].1.messages;
    world.happen(Event::Take(rows)).await;
    world.check();
    assert_eq!(world.clients[0].1.messages, messages);
}

#[tokio::test]
async fn equal_selections_share_one_encoding_and_late_ones_a_merged_delta() {
    let mut world = World::new(1_000, &[ALL, ALL, ALL]);
    world.check();
    for tick in 1..=3 {
        world.happen(Event::Take((0..500).map(|n| plain(&format!("v{n}"), tick as f64, tick)).collect())).await;
        world.context.hub.publish();
        if tick == 1 {
            let mut texts = Vec::new();
            for (subscription, client, _) in &mut world.clients[..2] {
                let Next::Looking = subscription.next(Instant::now()) else { panic!("there is news") };
                let Next::Message(message) = subscription.next(Instant::now()) else { panic!("a message") };
                texts.push(message.body.clone());
                client.hear(message.kind, message.into_message().to_text().unwrap());
            }
            assert_eq!(texts[0].as_ptr(), texts[1].as_ptr(), "the text is made once");
        }
    }
    let messages = world.clients[2].1.messages;
    world.check();
    let late = world.clients[2].1.messages - messages;
    let bytes =
        500 * "{'vehicle_id':'v000','version':1,'group_ids':['north'],'lat':1.0,'lon':2.0,'speed_kmh':3.0},".len();
    assert!(late <= bytes / super::publication::CHUNK_BYTES + 1, "{late} messages for three publications");
}

#[tokio::test]
async fn rows_that_are_not_vehicle_states_are_refused() {
    let (_, mut sink) = Edge::new(options());
    let rows = batch(&[plain("a", 1.0, 1)]);
    let append = Step { rows: vec![Rows::Append(rows.clone())], ..step(1, &[]) };
    assert!(sink.apply(&append).await.unwrap_err().to_string().contains("appended"));
    let narrow = rows.project(&[0]).unwrap();
    let narrow = Step { rows: vec![Rows::Upsert(narrow)], ..step(1, &[]) };
    assert!(sink.apply(&narrow).await.unwrap_err().to_string().contains("no such column"));
    let other = Step { stream: "company_minute", ..step(1, &[]) };
    assert!(sink.apply(&other).await.unwrap_err().to_string().contains("company_minute"));
    assert_eq!(sink.applied(STREAM, 0).await.unwrap(), Some(0));
    sink.apply(&step(7, &[plain("a", 1.0, 1)])).await.unwrap();
    assert_eq!(sink.applied(STREAM, 0).await.unwrap(), Some(7));
}
