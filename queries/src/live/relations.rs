//! Derived streams and tables, and what the process tells of them, to be asked in SQL.
//!
//! Invariant: `haulstream.streams` and `haulstream.errors` are made when they are asked for; nothing is kept for them.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::engine::Engine;
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
    let texts = ["name", "state", "kind", "key", "reads", "sql"].map(text);
    let numbers = ["rows", "bytes", "changes", "errors", "shares"].map(number);
    Arc::new(Schema::new(texts.into_iter().chain(numbers).collect::<Vec<_>>()))
}

fn errors_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![text("stream"), text("operator"), text("message"), number("rows")]))
}

impl Engine {
    fn streams(&self) -> RecordBatch {
        let all = self.list();
        let texts: [Vec<String>; 6] = [
            all.iter().map(|stream| stream.name.clone()).collect(),
            all.iter().map(|stream| stream.state.clone()).collect(),
            all.iter().map(|stream| stream.kind.to_owned()).collect(),
            all.iter().map(|stream| stream.key.join(", ")).collect(),
            all.iter().map(|stream| stream.reads.join(", ")).collect(),
            all.iter().map(|stream| stream.sql.clone()).collect(),
        ];
        let numbers: [Vec<u64>; 5] = [
            all.iter().map(|stream| stream.rows as u64).collect(),
            all.iter().map(|stream| stream.bytes as u64).collect(),
            all.iter().map(|stream| stream.changes).collect(),
            all.iter().map(|stream| stream.faults as u64).collect(),
            all.iter().map(|stream| stream.shares as u64).collect(),
        ];
        let texts = texts.into_iter().map(|column| Arc::new(StringArray::from(column)) as ArrayRef);
        let numbers = numbers.into_iter().map(|column| Arc::new(UInt64Array::from(column)) as ArrayRef);
        RecordBatch::try_new(streams_schema(), texts.chain(numbers).collect()).expect("the declared columns")
    }

    fn errors(&self) -> RecordBatch {
        let mut rows: Vec<(String, Fault, u64)> = Vec::new();
        for stream in self.list() {
            let content = self.faults(&stream.name).map(|content| content.rows).unwrap_or_default();
            // Equal ones lie beside each other.
            for same in content.chunk_by(|a, b| a == b) {
                rows.push((stream.name.clone(), Fault::of(&same[0]), same.len() as u64));
            }
        }
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
            kind,
        };
        let tables = catalog.relations().filter(|relation| relation.kind == Rows::Table);
        // What is on its way is not there yet.
        let running: Vec<String> = self.state().running.keys().cloned().collect();
        let views = catalog.views().filter(|view| running.contains(&view.relation.name));
        let views = views.filter(|view| view.relation.kind == Rows::Table);
        let system = |name: &str, schema: SchemaRef, key: &str| Relation {
            name: Name::new(SYSTEM, name),
            schema,
            key: vec![key.to_owned()],
            kind: Kind::System,
        };
        let mut all: Vec<Relation> = tables.map(|relation| public(relation, Kind::Table)).collect();
        all.extend(views.map(|view| public(&view.relation, Kind::View)));
        all.push(system("streams", streams_schema(), "name"));
        all.push(system("errors", errors_schema(), "stream"));
        all
    }

    fn snapshot_all(&self, names: &[Name]) -> Vec<Option<Snapshot>> {
        let public: Vec<&str> =
            names.iter().filter(|name| name.namespace == PUBLIC).map(|name| name.name.as_str()).collect();
        let mut contents = self.content(&public).into_iter();
        let as_of = self.keeper().as_of();
        let snapshot = |name: &Name| match (name.namespace.as_str(), name.name.as_str()) {
            (PUBLIC, _) => {
                let content = contents.next().flatten()?;
                Some(Snapshot { as_of: content.as_of, batches: content.batches() })
            }
            (SYSTEM, "streams") => Some(Snapshot { as_of, batches: vec![self.streams()] }),
            (SYSTEM, "errors") => Some(Snapshot { as_of, batches: vec![self.errors()] }),
            _ => None,
        };
        names.iter().map(snapshot).collect()
    }
}
