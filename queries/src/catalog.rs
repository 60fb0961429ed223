//! What derived streams may read, of the main job and of topics that are declared, and the derived streams themselves.
//!
//! Invariant: every view in it can be built; what a view reads is in it as long as the view is.

mod budget;
mod core;
mod declaration;
mod describe;
mod load;
mod place;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::logical_expr::LogicalPlan;
use operators::error::{Refusal, excerpt};
use operators::record::declared::Declared;

use crate::plan::{self, Columns, Inputs, Kind, Node};
use crate::readers;

pub use core::{ARRIVED, CORE, Core, core, seen};
pub use declaration::{Declaration, declared, duration_ms};
pub use load::{File, Problem, files};
pub use place::place;
pub use schema::{DECLARED_MAX, declares, is_schema};

/// The column that is the time of an event where nothing else is declared.
const TIME: &str = "ts";

/// Something that can be read by its name.
#[derive(Clone, Debug)]
pub struct Relation {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub schema: SchemaRef,
    /// What its rows are.
    pub kind: Kind,
    /// Columns that tell its rows apart; none if they are not known.
    pub key: Vec<String>,
    /// The column that says whose a row is; without one, readers of some companies do not see the relation.
    pub access: Option<String>,
}

/// A derived stream.
#[derive(Clone, Debug)]
pub struct View {
    /// What was declared.
    pub declaration: Declaration,
    /// What comes out.
    pub relation: Relation,
    /// How it is kept up to date.
    pub node: Arc<Node>,
    /// The plan that other plans put in its place, if it is not kept itself.
    logical: LogicalPlan,
    /// Names that its text uses, kept or not.
    uses: BTreeSet<String>,
}

impl View {
    /// Names that its text uses, kept or not.
    pub fn uses(&self) -> impl Iterator<Item = &str> {
        self.uses.iter().map(String::as_str)
    }
}

/// All names.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    relations: BTreeMap<String, Relation>,
    declared: BTreeMap<String, &'static Declared>,
    views: BTreeMap<String, View>,
}

impl Catalog {
    /// The streams and tables of the main job.
    #[must_use]
    pub fn of_the_main_job() -> Self {
        let relations = core().into_iter().map(|relation| (relation.name.clone(), relation)).collect();
        Self { relations, ..Self::default() }
    }

    /// Only these.
    #[must_use]
    pub fn new(relations: Vec<Relation>) -> Self {
        let relations = relations.into_iter().map(|relation| (relation.name.clone(), relation)).collect();
        Self { relations, ..Self::default() }
    }

    /// Everything that can be read and is there by itself.
    pub fn relations(&self) -> impl Iterator<Item = &Relation> {
        self.relations.values()
    }

    /// The derived streams by name.
    pub fn views(&self) -> impl Iterator<Item = &View> {
        self.views.values()
    }

    /// The derived stream of this name.
    #[must_use]
    pub fn view(&self, name: &str) -> Option<&View> {
        self.views.get(name)
    }

    /// Columns and kind of a name.
    #[must_use]
    pub fn relation(&self, name: &str) -> Option<&Relation> {
        self.relations.get(name).or_else(|| self.views.get(name).map(|view| &view.relation))
    }

    /// The column of a name that says whose a row is.
    pub(crate) fn access(&self, name: &str) -> Option<String> {
        self.relation(name)?.access.clone()
    }

    /// The view that a declaration makes, without adding it.
    ///
    /// # Errors
    /// What is wrong with the text, where, and what to do.
    pub fn plan(&self, text: &str) -> Result<View, Refusal> {
        let declaration = declaration::parse(text)?;
        let name = declaration.name.clone();
        if self.relations.contains_key(&name) {
            let what =
                if self.declared.contains_key(&name) { "declared over a topic" } else { "a stream of the main job" };
            return Err(Refusal::new("name_invalid", format!("{name} is {what}")).at("name"));
        }
        let uses: BTreeSet<String> = declaration.uses.iter().cloned().collect();
        if let Some(cycle) = self.cycle(&name, &uses) {
            return Err(Refusal::new("stream_cycle", cycle).hint("a view cannot be made of itself"));
        }
        let inputs = self.inputs();
        let known = || self.relations.keys().chain(self.views.keys()).map(String::as_str).collect::<Vec<_>>();
        let refuse = |why| plan::refusal(&why, &known());
        let logical = plan::plan_sql(&inputs, &declaration.query).map_err(refuse)?;
        let node = plan::lower(&logical, &inputs).map_err(refuse)?;
        let names = |name: &str| self.known(name);
        let node = plan::bounded(&node, declaration.times(), &names).map_err(refuse)?;
        declaration.meets(&node)?;
        let schema = named(&logical, &node, &declaration)?;
        let (key, access) = (declaration.key.clone(), declaration.access.clone());
        let relation = Relation { name, schema, kind: node.kind, key, access };
        Ok(View { declaration, relation, node, logical, uses })
    }

    /// Adds a view that is not there yet.
    ///
    /// # Errors
    /// There is one of that name.
    pub fn add(&mut self, view: View) -> Result<(), Refusal> {
        let name = view.relation.name.clone();
        if self.views.contains_key(&name) {
            return Err(Refusal::new("name_invalid", format!("there is a stream {name} already"))
                .at("name")
                .hint("replace it, or choose another name"));
        }
        self.views.insert(name, view);
        Ok(())
    }

    /// Puts a view in the place of the one of its name.
    ///
    /// # Errors
    /// There is none, or others depend on what would change.
    pub fn replace(&mut self, view: View) -> Result<(), Refusal> {
        let name = view.relation.name.clone();
        let Some(old) = self.views.get(&name) else { return Err(self.unknown(&name)) };
        let dependants = self.dependants(&name);
        let same = old.relation.schema == view.relation.schema && old.relation.key == view.relation.key;
        if !same && !dependants.is_empty() {
            return Err(Refusal::new(
                "stream_has_dependants",
                format!("{name} would get another key or other columns, and {} read it", dependants.join(", ")),
            )
            .hint("drop what reads it first"));
        }
        self.views.insert(name, view);
        Ok(())
    }

    /// Takes a view out.
    ///
    /// # Errors
    /// There is none, or others read it.
    pub fn drop(&mut self, name: &str) -> Result<View, Refusal> {
        if !self.views.contains_key(name) {
            return Err(self.unknown(name));
        }
        let dependants = self.dependants(name);
        if !dependants.is_empty() {
            let message = format!("{} read {}", dependants.join(", "), excerpt(name));
            return Err(Refusal::new("stream_has_dependants", message).hint("drop them first"));
        }
        self.views.remove(name).ok_or_else(|| self.unknown(name))
    }

    /// Views that use this name.
    #[must_use]
    pub fn dependants(&self, name: &str) -> Vec<&str> {
        let uses = self.views.values().filter(|view| view.uses.contains(name));
        uses.map(|view| view.relation.name.as_str()).collect()
    }

    /// The refusal of a name that is not there.
    #[must_use]
    pub fn unknown(&self, name: &str) -> Refusal {
        let names: Vec<&str> = self.views.keys().map(String::as_str).collect();
        plan::unknown_name("stream", name, &names)
    }

    /// The columns of a name, and which of them is the time of an event.
    fn known(&self, name: &str) -> Columns {
        let names = columns(self.relation(name));
        let time = match self.declared.get(name) {
            Some(declared) => declared.time,
            None => names.iter().position(|name| name == TIME),
        };
        Columns { names, time }
    }

    fn inputs(&self) -> Inputs {
        let mut inputs = Inputs::default();
        for relation in self.relations.values() {
            inputs = inputs.with(&relation.name, relation.schema.clone(), relation.kind);
        }
        for view in self.views.values() {
            let Relation { name, schema, kind, .. } = &view.relation;
            inputs = match view.declaration.materialized {
                true => inputs.with(name, schema.clone(), *kind),
                false => inputs.with_plan(name, view.logical.clone(), view.declaration.query.clone()),
            };
        }
        inputs
    }

    /// The way from a name back to itself, if the view of that name used these.
    fn cycle(&self, name: &str, uses: &BTreeSet<String>) -> Option<String> {
        let mut ways: Vec<Vec<&str>> = uses.iter().map(|used| vec![used.as_str()]).collect();
        while let Some(way) = ways.pop() {
            let last = *way.last()?;
            if last == name {
                return Some(format!("{name} → {}", way.join(" → ")));
            }
            let next = self.views.get(last).into_iter().flat_map(|view| &view.uses);
            ways.extend(next.map(|used| way.iter().copied().chain([used.as_str()]).collect()));
        }
        None
    }
}

fn columns(relation: Option<&Relation>) -> Vec<String> {
    let fields = relation.map(|relation| relation.schema.fields().clone()).unwrap_or_default();
    fields.iter().map(|field| field.name().clone()).collect()
}

/// The columns of a view by the names of its text.
fn named(logical: &LogicalPlan, node: &Node, declaration: &Declaration) -> Result<SchemaRef, Refusal> {
    let given = logical.schema().fields().iter().map(|field| field.name().clone());
    let names: Vec<String> = given.collect();
    if let Some(twice) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
        return Err(Refusal::new("sql_ambiguous_column", format!("two columns are called {}", excerpt(twice.1)))
            .hint("give each its name by AS"));
    }
    for key in declaration.key.iter().chain(&declaration.access) {
        if !names.contains(key) {
            return Err(plan::unknown_name("column", key, &names.iter().map(String::as_str).collect::<Vec<_>>()));
        }
    }
    if declaration.key.is_empty() && node.kind == Kind::Table && !declaration.sinks.is_empty() {
        return Err(Refusal::new("sql_key_missing", "rows come and go, and sinks have to know them again")
            .hint("name the columns that tell them apart: WITH (key = 'a, b')"));
    }
    if let Some(ours) = names.iter().find(|name| name.starts_with("__")).filter(|_| !declaration.sinks.is_empty()) {
        return Err(Refusal::new("name_invalid", format!("column {} begins as columns of ours", excerpt(ours)))
            .hint("give it another name by AS; a stream that goes to sinks has no names that begin with __"));
    }
    if let Some(access) = &declaration.access {
        let of = names.iter().position(|name| name == access).map(|at| node.schema.field(at).data_type());
        if let Some(kind) = of.filter(|kind| !readers::is_text(kind)) {
            let message = format!("access {} is {kind}, and says whose a row is by a text", excerpt(access));
            return Err(Refusal::new("sql_option_invalid", message)
                .at("access")
                .hint("name the column with the company's id, or cast it to text in the SELECT"));
        }
    }
    let fields = names.iter().zip(node.schema.fields());
    let fields = fields.map(|(name, field)| Field::new(name, field.data_type().clone(), true));
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

#[cfg(test)]
mod tests;
