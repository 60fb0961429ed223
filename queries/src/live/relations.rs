//! Derived streams and tables, and what the process tells of them, to be asked in SQL.
//!
//! Invariant: what `haulstream.*` tells is made when it is asked for; nothing is kept for it.

use std::sync::{Arc, PoisonError};

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use operators::error::Refusal;
use operators::time::Tick;

use super::engine::Engine;
use super::keep::Content;
use crate::plan::Kind as Rows;
use crate::reads::{Kind, Name, PUBLIC, Relation, Relations, SYSTEM, Snapshot};
use crate::render::Fault;

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn number(name: &str) -> Field {
    Field::new(name, DataType::UInt64, true)
}

fn streams_schema() -> SchemaRef {
    let texts = ["name", "state", "reason", "kind", "key", "access", "reads", "sql", "sinks"].map(text);
    let numbers = ["rows", "bytes", "state_rows", "state_bytes", "busy_pct", "changes", "errors", "shares"].map(number);
    let as_of = Field::new("as_of", DataType::Timestamp(TimeUnit::Millisecond, None), true);
    Arc::new(Schema::new(texts.into_iter().chain(numbers).chain([as_of]).collect::<Vec<_>>()))
}

/// The operator of rows that came too late.
const LATE: &str = "Late";

fn late_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![text("stream"), number("rows")]))
}

fn errors_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![text("stream"), text("operator"), text("message"), number("rows")]))
}

impl Engine {
    fn streams(&self, as_of: Tick) -> RecordBatch {
        let all = self.list();
        let sink = |sent: &super::Sent| format!("{}: {}", sent.sink, sent.state);
        let texts: [Vec<Option<String>>; 9] = [
            all.iter().map(|stream| Some(stream.name.clone())).collect(),
            all.iter().map(|stream| Some(stream.state.to_owned())).collect(),
            all.iter().map(|stream| stream.reason.clone()).collect(),
            all.iter().map(|stream| Some(stream.kind.to_owned())).collect(),
            all.iter().map(|stream| Some(stream.key.join(", "))).collect(),
            all.iter().map(|stream| stream.access.clone()).collect(),
            all.iter().map(|stream| Some(stream.reads.join(", "))).collect(),
            all.iter().map(|stream| Some(stream.sql.clone())).collect(),
            all.iter().map(|stream| Some(stream.sinks.iter().map(sink).collect::<Vec<_>>().join("; "))).collect(),
        ];
        let numbers: [Vec<u64>; 8] = [
            all.iter().map(|stream| stream.rows as u64).collect(),
            all.iter().map(|stream| stream.bytes as u64).collect(),
            all.iter().map(|stream| stream.state_rows.max(0) as u64).collect(),
            all.iter().map(|stream| stream.state_bytes.max(0) as u64).collect(),
            all.iter().map(|stream| stream.busy_pct.round() as u64).collect(),
            all.iter().map(|stream| stream.changes).collect(),
            all.iter().map(|stream| stream.faults as u64).collect(),
            all.iter().map(|stream| stream.shares as u64).collect(),
        ];
        let texts = texts.into_iter().map(|column| Arc::new(StringArray::from(column)) as ArrayRef);
        let numbers = numbers.into_iter().map(|column| Arc::new(UInt64Array::from(column)) as ArrayRef);
        // That of the question, not of a moment later.
        let as_of: TimestampMillisecondArray = all.iter().map(|_| i64::try_from(as_of).ok()).collect();
        let columns = texts.chain(numbers).chain([Arc::new(as_of) as ArrayRef]);
        RecordBatch::try_new(streams_schema(), columns.collect()).expect("the declared columns")
    }

    /// How many rows came after their window was sealed.
    fn late_rows(&self) -> RecordBatch {
        let late = self.faulty().into_iter().filter(|(_, fault, _)| fault.operator == LATE);
        let (names, counts): (Vec<String>, Vec<u64>) = late.map(|(stream, _, count)| (stream, count)).unzip();
        let columns: [ArrayRef; 2] = [Arc::new(StringArray::from(names)), Arc::new(UInt64Array::from(counts))];
        RecordBatch::try_new(late_schema(), columns.to_vec()).expect("the declared columns")
    }

    /// Faults by stream, equal ones together.
    fn faulty(&self) -> Vec<(String, Fault, u64)> {
        let mut rows: Vec<(String, Fault, u64)> = Vec::new();
        for stream in self.list() {
            let content = self.faults(&stream.name).map(|content| content.rows).unwrap_or_default();
            // Equal ones lie beside each other.
            for same in content.chunk_by(|a, b| a == b) {
                rows.push((stream.name.clone(), Fault::of(&same[0]), same.len() as u64));
            }
        }
        rows
    }

    fn errors(&self) -> RecordBatch {
        let rows: Vec<_> = self.faulty().into_iter().filter(|(_, fault, _)| fault.operator != LATE).collect();
        let texts: [Vec<&str>; 3] = [
            rows.iter().map(|(stream, ..)| stream.as_str()).collect(),
            rows.iter().map(|(_, fault, _)| fault.operator.as_str()).collect(),
            rows.iter().map(|(_, fault, _)| fault.message.as_str()).collect(),
        ];
        let mut columns: Vec<ArrayRef> =
            texts.into_iter().map(|column| Arc::new(StringArray::from(column)) as ArrayRef).collect();
        columns.push(Arc::new(rows.iter().map(|(.., count)| Some(*count)).collect::<UInt64Array>()));
        RecordBatch::try_new(errors_schema(), columns).expect("the declared columns")
    }
}

impl Relations for Engine {
    fn list(&self) -> Vec<Relation> {
        let catalog = self.catalog();
        let public = |relation: &crate::catalog::Relation, kind| Relation {
            name: Name::new(PUBLIC, &relation.name),
            schema: relation.schema.clone(),
            key: relation.key.clone(),
            access: relation.access.clone(),
            kind,
        };
        let tables = catalog.relations().filter(|relation| relation.kind == Rows::Table);
        // What is on its way is not there yet.
        let running: Vec<String> = self.state().running.keys().cloned().collect();
        // What was there at an earlier start is known, and cannot be read yet.
        let again: Vec<crate::catalog::Relation> = self.state().again.relations.values().cloned().collect();
        let again = again.iter().filter(|relation| relation.kind == Rows::Table && !running.contains(&relation.name));
        let views = catalog.views().filter(|view| running.contains(&view.relation.name));
        let views = views.filter(|view| view.relation.kind == Rows::Table);
        let system = |name: &str, schema: SchemaRef, key: &str| Relation {
            name: Name::new(SYSTEM, name),
            schema,
            key: vec![key.to_owned()],
            access: None,
            kind: Kind::System,
        };
        let mut all: Vec<Relation> = tables.map(|relation| public(relation, Kind::Table)).collect();
        all.extend(views.map(|view| public(&view.relation, Kind::View)));
        all.extend(again.map(|relation| public(relation, Kind::View)));
        all.push(system("streams", streams_schema(), "name"));
        all.push(system("errors", errors_schema(), "stream"));
        all.push(system("late_rows", late_schema(), "stream"));
        for table in self.system.read().unwrap_or_else(PoisonError::into_inner).iter() {
            all.push(Relation { key: Vec::new(), ..system(table.name, table.schema.clone(), "") });
        }
        all
    }

    fn snapshot_all(&self, names: &[Name]) -> Vec<Option<Snapshot>> {
        let public: Vec<&str> =
            names.iter().filter(|name| name.namespace == PUBLIC).map(|name| name.name.as_str()).collect();
        let contents = self.content_and_access(&public);
        let first = contents.iter().find_map(|(content, _)| content.as_ref());
        let as_of = first.map_or_else(|| self.keeper().as_of(), |content| content.as_of);
        let mut contents = contents.into_iter();
        let own = |rows| Some(Snapshot { as_of, access: None, batches: vec![rows] });
        let snapshot = |name: &Name| match (name.namespace.as_str(), name.name.as_str()) {
            (PUBLIC, _) => {
                let (content, access) = contents.next()?;
                let content: Content = content?;
                Some(Snapshot { as_of: content.as_of, access, batches: content.batches() })
            }
            (SYSTEM, "streams") => own(self.streams(as_of)),
            (SYSTEM, "errors") => own(self.errors()),
            (SYSTEM, "late_rows") => own(self.late_rows()),
            (SYSTEM, name) => {
                let all = self.system.read().unwrap_or_else(PoisonError::into_inner);
                let table = all.iter().find(|table| table.name == name)?;
                own((table.rows)())
            }
            _ => None,
        };
        names.iter().map(snapshot).collect()
    }

    fn why_not(&self, name: &Name) -> Option<Refusal> {
        let state = self.state();
        let mine = name.namespace == PUBLIC;
        if mine && state.again.relations.contains_key(&name.name) {
            let message = format!("{} is being built again from the log since the process started", name.name);
            return Some(Refusal::new("stream_building", message).hint("ask again; sql list tells how far it is"));
        }
        let stream = state.running.get(&name.name).and_then(|running| running.watch.suspended());
        let table = self.bases.get(&name.name).and_then(|held| held.given_up());
        let suspended = stream.or(table).filter(|_| mine)?;
        let message = format!("{} is suspended: {}", name.name, suspended.reason);
        let hint = if stream.is_some() { "replace it or drop it" } else { "raise its limit, and start again" };
        Some(Refusal::new("sql_stream_suspended", message).hint(hint))
    }
}
