//! The page of figures: what every crate tells of its own when the program starts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// Keeps descriptions, and no figure.
#[derive(Default)]
struct Descriptions(Mutex<BTreeMap<String, (&'static str, Option<Unit>, String)>>);

impl Descriptions {
    fn put(&self, kind: &'static str, name: &KeyName, unit: Option<Unit>, help: &SharedString) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.as_str().to_owned(), (kind, unit, help.to_string()));
    }
}

impl Recorder for Descriptions {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.put("counter", &name, unit, &help);
    }
    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.put("gauge", &name, unit, &help);
    }
    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.put("histogram", &name, unit, &help);
    }
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// The page.
pub fn page() -> String {
    let descriptions = Descriptions::default();
    metrics::with_local_recorder(&descriptions, crate::admin::describe);
    let mut out = "# Figures\n\n\
        At `GET /metrics` in Prometheus' text format. Labels are bounded (topic, partition, stream, sink, worker, code); no \
        figure is kept per device or vehicle.\n\n\
        | name | kind | unit | meaning |\n| --- | --- | --- | --- |\n"
        .to_owned();
    for (name, (kind, unit, help)) in &*descriptions.0.lock().unwrap_or_else(PoisonError::into_inner) {
        let unit = match unit {
            None | Some(Unit::Count) => "",
            Some(unit) => unit.as_str(),
        };
        let _ = writeln!(out, "| `{name}` | {kind} | {unit} | {} |", help.replace('|', "\\|"));
    }
    out
}
