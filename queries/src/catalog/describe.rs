//! Derived streams described for people: what `sql check`, `sql explain` and `sql graph` show.
//!
//! Invariant: text only. Nothing is decided here that a plan does not say.

use std::fmt::Write as _;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use operators::record::declared::{Column, Declared};

use super::{Catalog, View, columns};
use crate::plan::{self, Id, Kept, Kind};

impl Catalog {
    /// Columns, key, what it reads and what it keeps.
    #[must_use]
    pub fn describe(&self, view: &View) -> String {
        let (relation, declaration) = (&view.relation, &view.declaration);
        let kind = match relation.kind {
            Kind::Events => "events",
            Kind::Table => "table",
        };
        let kept = if declaration.materialized { "" } else { ", not materialized" };
        let mut out = format!("{}: {kind}{kept}\n", relation.name);
        let width = relation.schema.fields().iter().map(|field| field.name().chars().count()).max().unwrap_or(0);
        let mut title = "columns";
        for field in relation.schema.fields() {
            let _ = writeln!(out, "  {title:<9} {:<width$}  {}", field.name(), type_name(field.data_type()));
            title = "";
        }
        let mut line = |title: &str, text: &str| {
            if !text.is_empty() {
                let _ = writeln!(out, "  {title:<9} {text}");
            }
        };
        line("key", &relation.key.join(", "));
        line("reads", &self.reads(view).join(", "));
        line("retention", &declaration.retention_ms.map(plan::spoken).unwrap_or_default());
        let as_of = declaration.as_of_ms.map(|ms| format!("event time, of the last {}", plan::spoken(ms)));
        line("as of", &as_of.unwrap_or_default());
        line(
            "corrected",
            &declaration.correct_for_ms.map(|ms| format!("for {}", plan::spoken(ms))).unwrap_or_default(),
        );
        line("memory", &declaration.memory_bytes.map(|bytes| format!("at most {bytes} bytes")).unwrap_or_default());
        line("time", &declaration.time_pct.map(|pct| format!("at most {pct} % of a worker's")).unwrap_or_default());
        line("sinks", &declaration.sinks.join(", "));
        line("access", declaration.access.as_deref().unwrap_or_default());
        let mut title = "state";
        let kept = self.state(view);
        if kept.is_empty() {
            line(title, "nothing is kept");
        }
        for Kept { operator, grows, .. } in kept {
            line(title, &format!("{operator}: {grows}"));
            title = "";
        }
        out
    }

    /// Topic, columns and key of a source or table.
    #[must_use]
    pub fn describe_declared(&self, declared: &Declared) -> String {
        let Declared { name, topic, columns, .. } = declared;
        let kind = if declared.table { "table" } else { "events" };
        let mut out = format!("{name}: {kind} of topic {topic}\n");
        let width = columns.iter().map(|column| column.name.chars().count()).max().unwrap_or(0);
        let mut title = "columns";
        for Column { name, kind, required } in columns {
            let required = if *required { ", not null" } else { "" };
            let _ = writeln!(out, "  {title:<9} {name:<width$}  {}{required}", type_name(&kind.arrow()));
            title = "";
        }
        let key: Vec<&str> = declared.key().iter().map(|column| column.name.as_str()).collect();
        let _ = writeln!(out, "  {:<9} {}", "key", key.join(", "));
        if let Some(place) = declared.time {
            let _ = writeln!(out, "  {:<9} {}", "time", columns[place].name);
        }
        out
    }

    /// What each operator of the view keeps.
    #[must_use]
    pub fn state(&self, view: &View) -> Vec<Kept> {
        plan::state(&view.node, &|name| columns(self.relation(name)))
    }

    /// DataFusion's plan of the view.
    #[must_use]
    pub fn explain_logical(&self, view: &View) -> String {
        format!("{}\n", view.logical.display_indent())
    }

    /// The operators of the view as a tree; shared ones are marked.
    #[must_use]
    pub fn explain_physical(&self, view: &View) -> String {
        let elsewhere = |id: Id| {
            let others = self.views.values().filter(|other| other.relation.name != view.relation.name);
            let mut uses = others.filter(|other| {
                let mut met = false;
                other.node.visit(&mut |node| met |= node.id == id);
                met && other.declaration.materialized
            });
            uses.next().map(|other| other.relation.name.clone())
        };
        plan::physical(&view.node, &|name| columns(self.relation(name)), &elsewhere)
    }

    /// The same of what each operator keeps.
    #[must_use]
    pub fn explain_state(&self, view: &View) -> String {
        let kept = self.state(view);
        if kept.is_empty() {
            return "nothing is kept\n".to_owned();
        }
        let lines = kept.iter().map(|Kept { id, operator, grows }| format!("{operator} {id}: {grows}\n"));
        lines.collect()
    }

    /// Names that the view's text reads, as far as they are known.
    #[must_use]
    pub fn reads<'a>(&self, view: &'a View) -> Vec<&'a str> {
        let names = view.uses.iter().map(String::as_str);
        names.filter(|name| self.relation(name).is_some()).collect()
    }

    /// Which of these views reads what, and what that reads; a line each.
    #[must_use]
    pub fn graph_text(&self, names: &[&str]) -> String {
        let views = self.with_below(names);
        let width = views.iter().map(|view| view.relation.name.len()).max().unwrap_or(0);
        let line = |view: &&View| {
            let kept = if view.declaration.materialized { "" } else { " (not materialized)" };
            format!("{:<width$} ← {}{kept}\n", view.relation.name, self.reads(view).join(", "))
        };
        views.iter().map(line).collect()
    }

    /// The same in Graphviz's language.
    #[must_use]
    pub fn graph_dot(&self, names: &[&str]) -> String {
        let mut out = "digraph streams {\n  rankdir = LR;\n  node [shape = box];\n".to_owned();
        let views = self.with_below(names);
        let mut sources: Vec<&str> = views.iter().flat_map(|view| self.reads(view)).collect();
        sources.retain(|name| !self.views.contains_key(*name));
        sources.sort_unstable();
        sources.dedup();
        for source in sources {
            let _ = writeln!(out, "  \"{source}\" [style = filled];");
        }
        for view in views {
            let name = &view.relation.name;
            if !view.declaration.materialized {
                let _ = writeln!(out, "  \"{name}\" [style = dashed];");
            }
            for read in self.reads(view) {
                let _ = writeln!(out, "  \"{read}\" -> \"{name}\";");
            }
        }
        out.push_str("}\n");
        out
    }

    /// These views and those that they stand on, by name.
    fn with_below(&self, names: &[&str]) -> Vec<&View> {
        let mut all = std::collections::BTreeMap::new();
        let mut next: Vec<&str> = names.to_vec();
        while let Some(name) = next.pop() {
            if let Some(view) = self.views.get(name)
                && all.insert(view.relation.name.as_str(), view).is_none()
            {
                next.extend(self.reads(view));
            }
        }
        all.into_values().collect()
    }
}

/// The type by its name in SQL.
fn type_name(kind: &DataType) -> String {
    match kind {
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => "text".into(),
        DataType::Int64 => "bigint".into(),
        DataType::Int32 => "integer".into(),
        DataType::UInt64 => "bigint unsigned".into(),
        DataType::Float64 => "double".into(),
        DataType::Boolean => "boolean".into(),
        DataType::Date32 => "date".into(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision}, {scale})"),
        DataType::Timestamp(TimeUnit::Millisecond, None) => "timestamp".into(),
        DataType::List(item) => format!("{}[]", type_name(item.data_type())),
        other => other.to_string(),
    }
}
