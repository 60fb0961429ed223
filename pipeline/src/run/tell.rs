//! The process's own figures as tables in SQL: `haulstream.sources`, `haulstream.sinks` and `haulstream.workers`.
//!
//! Invariant: a table says what `/metrics` says at that moment, a row a figure; nothing is counted twice.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use queries::live::Engine;
use queries::reads::SystemTable;

use crate::admin::Figures;

/// Table, beginning of its figures' names, and the labels that tell whose they are, the first that is there.
const TABLES: [(&str, &str, &[&str]); 3] = [
    ("sources", "haulstream_source_", &["topic", "stream", "worker"]),
    ("sinks", "haulstream_sink_", &["sink"]),
    ("workers", "haulstream_worker_", &["worker"]),
];

/// A figure as it is shown.
#[derive(Debug, PartialEq)]
struct Shown {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// Has the tables to be read.
pub fn tell(engine: &Engine, figures: &Figures) {
    for (name, prefix, of) in TABLES {
        let (figures, schema) = (figures.clone(), schema());
        let rows = Box::new({
            let schema = schema.clone();
            move || table(&schema, &figures.render(), prefix, of)
        });
        engine.tell(SystemTable { name, schema, rows });
    }
}

fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let fields = vec![text("name"), text("labels"), text("figure"), Field::new("value", DataType::Float64, true)];
    Arc::new(Schema::new(fields))
}

fn table(schema: &SchemaRef, page: &str, prefix: &str, of: &[&str]) -> RecordBatch {
    // What a histogram has in each of its steps is for graphs.
    let mut all: Vec<Shown> = page
        .lines()
        .filter_map(shown)
        .filter(|figure| figure.name.starts_with(prefix) && !figure.name.ends_with("_bucket"))
        .collect();
    all.sort_by(|a, b| (&a.name, &a.labels).cmp(&(&b.name, &b.labels)));
    let whose = |figure: &Shown| {
        let label = of.iter().find_map(|name| figure.labels.iter().find(|(label, _)| label == name));
        label.map(|(_, value)| value.clone())
    };
    let labels = |figure: &Shown| {
        let all: Vec<String> = figure.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        all.join(", ")
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(all.iter().map(whose).collect::<StringArray>()),
        Arc::new(all.iter().map(|figure| Some(labels(figure))).collect::<StringArray>()),
        Arc::new(all.iter().map(|figure| Some(figure.name.trim_start_matches(prefix))).collect::<StringArray>()),
        Arc::new(all.iter().map(|figure| Some(figure.value)).collect::<Float64Array>()),
    ];
    RecordBatch::try_new(schema.clone(), columns).expect("the declared columns")
}

/// A line of the page: `name{label="value",…} number`.
fn shown(line: &str) -> Option<Shown> {
    let (head, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
    let value = value.parse().ok()?;
    let Some((name, mut rest)) = head.split_once('{') else {
        return Some(Shown { name: head.to_owned(), labels: Vec::new(), value });
    };
    let mut labels = Vec::new();
    while let Some((label, quoted)) = rest.split_once("=\"") {
        let mut text = String::new();
        let mut characters = quoted.char_indices();
        loop {
            match characters.next()? {
                (_, '\\') => text.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (at, '"') => {
                    rest = &quoted[at + 1..];
                    break;
                }
                (_, other) => text.push(other),
            }
        }
        labels.push((label.trim_start_matches(',').to_owned(), text));
    }
    Some(Shown { name: name.to_owned(), labels, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_figures() {
        let labels = |all: &[(&str, &str)]| all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let figure =
            |name: &str, all: &[(&str, &str)], value| Some(Shown { name: name.to_owned(), labels: labels(all), value });
        assert_eq!(shown("a_total 7"), figure("a_total", &[], 7.0));
        assert_eq!(
            shown(r#"b{topic="a \"b\" c,d=\\",partition="3"} 1.5e3"#),
            figure("b", &[("topic", "a \"b\" c,d=\\"), ("partition", "3")], 1_500.0)
        );
        for none in ["", "# HELP a b", "# TYPE a counter", "a", "a{b=\"c} 1", "a x"] {
            assert_eq!(shown(none), None, "{none}");
        }
    }

    #[test]
    fn a_table_has_the_figures_of_its_kind() {
        let page = "haulstream_sink_rows_total{sink=\"redis\",stream=\"links\"} 3\nhaulstream_worker_rows_total{worker=\"1\"} 9\n\
                    haulstream_sink_apply_seconds_bucket{sink=\"redis\",le=\"1\"} 1\n";
        let rows = table(&schema(), page, "haulstream_sink_", &["sink"]);
        let text = arrow::util::pretty::pretty_format_batches(&[rows]).expect("a table").to_string();
        assert!(text.contains("| redis | sink=redis, stream=links | rows_total | 3.0   |"), "{text}");
        assert_eq!(text.lines().count(), 5, "{text}");
    }
}
