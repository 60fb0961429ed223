//! From a question's text to its rows: which relations it reads, their rows as of one tick, a plan, an answer.
//!
//! Invariant: a name stands for a relation of the list or for a table of `pg_catalog`; nothing else can be read.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::{MemorySchemaProvider, TableProvider};
use datafusion::common::{ScalarValue, TableReference};
use datafusion::datasource::MemTable;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use operators::error::Refusal;
use operators::time::Tick;

use super::directory::{CATALOG, Directory};
use super::translate::{self, Translated};
use super::{Described, Kind, Name, PUBLIC, Relations, SYSTEM, Snapshot, Told, functions, pg_catalog, with_history};
use crate::answer::Answer;
use crate::history;
use crate::question::{self, Options, refuse};

/// Rows that are handed on at once: between two batches a question can be stopped.
const BATCH_ROWS_MAX: usize = 8_192;

/// A question that can be carried out.
pub(super) struct Planned {
    pub context: SessionContext,
    pub plan: LogicalPlan,
    pub names: Vec<String>,
    pub as_of: Option<Tick>,
}

/// What becomes of a text: a plan, or the certainty that there is no row.
enum Outcome {
    Plan(Box<Planned>),
    Nothing(Vec<String>),
}

/// Answers the query; anew where files of the history were replaced meanwhile.
pub(super) async fn ask(
    relations: &dyn Relations,
    options: &Options,
    statement: Statement,
    parameters: Vec<ScalarValue>,
) -> Result<Told, Refusal> {
    for _ in 1..history::ATTEMPTS {
        match ask_once(relations, options, statement.clone(), parameters.clone()).await {
            Err(refusal) if refusal.code == refuse::CHANGED => {}
            told => return told,
        }
    }
    ask_once(relations, options, statement, parameters).await
}

async fn ask_once(
    relations: &dyn Relations,
    options: &Options,
    statement: Statement,
    parameters: Vec<ScalarValue>,
) -> Result<Told, Refusal> {
    match plan(relations, options, statement, true).await? {
        Outcome::Nothing(names) => {
            let answer = Answer { schema: texts(&names), batches: Vec::new(), truncated: false, as_of: None };
            Ok(Told { answer, names })
        }
        Outcome::Plan(planned) => {
            let Planned { context, plan, names, as_of } = *planned;
            let plan = with_values(plan, parameters)?;
            let answer = question::answer(&context, &plan, options).await?;
            Ok(Told { answer: Answer { as_of, ..answer }, names })
        }
    }
}

/// Columns and parameters of the query.
pub(super) async fn describe(
    relations: &dyn Relations,
    options: &Options,
    statement: Statement,
) -> Result<Described, Refusal> {
    match plan(relations, options, statement, false).await? {
        Outcome::Nothing(names) => Ok(Described { schema: texts(&names), names, parameters: Vec::new() }),
        Outcome::Plan(planned) => {
            let Planned { plan, names, .. } = *planned;
            question::only_reads(&plan)?;
            let parameters = parameters(&plan)?;
            Ok(Described { schema: Arc::new(plan.schema().as_arrow().clone()), names, parameters })
        }
    }
}

async fn plan(
    relations: &dyn Relations,
    options: &Options,
    statement: Statement,
    with_rows: bool,
) -> Result<Outcome, Refusal> {
    let directory = Directory::new(relations.list());
    let Translated { statement, names, nothing } = translate::translate(statement, &directory)?;
    if nothing {
        return Ok(Outcome::Nothing(names.unwrap_or_default()));
    }
    let refuse = |e| refuse::refusal(&e, &directory.known());
    let context = question::session(options, CATALOG).map_err(refuse)?;
    functions::register(&context, &directory);
    let references = context.state().resolve_table_references(&statement).map_err(refuse)?;
    let as_of = register(&context, relations, &directory, &references, with_rows).await?;
    let plan = context.state().statement_to_plan(statement).await.map_err(refuse)?;
    let columns = plan.schema().fields();
    let names = names
        .filter(|names| names.len() == columns.len())
        .unwrap_or_else(|| columns.iter().map(|field| field.name().clone()).collect());
    Ok(Outcome::Plan(Box::new(Planned { context, plan, names, as_of })))
}

/// Makes what the question reads known to its session; the tick as of which.
async fn register(
    context: &SessionContext,
    relations: &dyn Relations,
    directory: &Directory,
    references: &[TableReference],
    with_rows: bool,
) -> Result<Option<Tick>, Refusal> {
    let refuse = |e| refuse::refusal(&e, &directory.known());
    let catalog = context.catalog(CATALOG).expect("the session was made with it");
    let namespaces = directory.namespaces().into_iter().chain([SYSTEM, pg_catalog::NAMESPACE]);
    for namespace in namespaces.filter(|namespace| *namespace != PUBLIC) {
        catalog.register_schema(namespace, Arc::new(MemorySchemaProvider::new())).map_err(refuse)?;
    }
    if references.iter().any(|reference| reference.schema() == Some("information_schema")) {
        context.state_ref().write().config_mut().options_mut().catalog.information_schema = true;
        for relation in directory.relations() {
            let name = TableReference::partial(relation.name.namespace.clone(), relation.name.name.clone());
            context.register_table(name, table(relation.schema.clone(), Vec::new())?).map_err(refuse)?;
        }
    }
    let mut read = Vec::new();
    for reference in references {
        if let Some(relation) = directory.find(reference) {
            read.push((reference, relation));
        } else if let Some(rows) = pg_catalog::table(reference, directory) {
            context.deregister_table(reference.clone()).map_err(refuse)?;
            context.register_table(reference.clone(), table(rows.schema(), vec![rows])?).map_err(refuse)?;
        }
    }
    let old: Vec<_> = read.extract_if(.., |(_, relation)| relation.kind == Kind::History).collect();
    let old: Vec<_> =
        old.into_iter().filter_map(|(name, found)| Some((with_history::table(&found.name)?, name.clone()))).collect();
    match relations.history().filter(|_| with_rows) {
        Some(files) => history::register_as(context, files, &old, relations.companies()).await?,
        None => old.into_iter().try_for_each(|(found, name)| {
            context.deregister_table(name.clone()).map_err(refuse)?;
            context.register_table(name, table(found.shown_schema(), Vec::new())?).map_err(refuse)?;
            Ok(())
        })?,
    }
    let names: Vec<Name> = read.iter().map(|(_, relation)| relation.name.clone()).collect();
    let snapshots = if with_rows { rows(relations, directory, &names)? } else { Vec::new() };
    let as_of = snapshots.first().map(|snapshot| snapshot.as_of);
    let mut snapshots = snapshots.into_iter();
    for (reference, relation) in read {
        let batches = snapshots.next().map(|snapshot| snapshot.batches).unwrap_or_default();
        context.deregister_table(reference.clone()).map_err(refuse)?;
        context.register_table(reference.clone(), table(relation.schema.clone(), batches)?).map_err(refuse)?;
    }
    Ok(as_of)
}

/// The rows of all these, as of one tick.
fn rows(relations: &dyn Relations, directory: &Directory, names: &[Name]) -> Result<Vec<Snapshot>, Refusal> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let snapshots = relations.snapshot_all(names);
    debug_assert!(snapshots.iter().flatten().all(|one| Some(one.as_of) == snapshots[0].as_ref().map(|s| s.as_of)));
    let dropped = |name: &Name| refuse::unknown_table(&name.name, &directory.known()).hint("it was just dropped");
    let gone = |name: &Name| relations.why_not(name).unwrap_or_else(|| dropped(name));
    snapshots.into_iter().zip(names).map(|(snapshot, name)| snapshot.ok_or_else(|| gone(name))).collect()
}

fn table(schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<Arc<dyn TableProvider>, Refusal> {
    let small = batches.into_iter().flat_map(|batch| {
        let starts = (0..batch.num_rows()).step_by(BATCH_ROWS_MAX);
        let slice = move |start: usize| batch.slice(start, BATCH_ROWS_MAX.min(batch.num_rows() - start));
        starts.map(slice).collect::<Vec<_>>()
    });
    let table = MemTable::try_new(schema, vec![small.collect()]).map_err(|e| refuse::refusal(&e, &[]))?;
    Ok(Arc::new(table))
}

fn texts(names: &[String]) -> SchemaRef {
    let fields = names.iter().map(|name| datafusion::arrow::datatypes::Field::new(name, DataType::Utf8, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Types of the parameters, in their order.
fn parameters(plan: &LogicalPlan) -> Result<Vec<Option<DataType>>, Refusal> {
    let found = plan.get_parameter_types().map_err(|e| refuse::refusal(&e, &[]))?;
    let mut types = Vec::new();
    for (name, data_type) in found {
        let number: usize = name.strip_prefix('$').and_then(|n| n.parse().ok()).unwrap_or(0);
        if !(1..=question::SQL_TOKENS_MAX).contains(&number) {
            return Err(Refusal::new("sql_invalid", format!("there is no parameter {name}")).hint("write $1, $2, …"));
        }
        if types.len() < number {
            types.resize(number, None);
        }
        types[number - 1] = data_type;
    }
    Ok(types)
}

fn with_values(plan: LogicalPlan, values: Vec<ScalarValue>) -> Result<LogicalPlan, Refusal> {
    let types = parameters(&plan)?;
    if types.is_empty() {
        return Ok(plan);
    }
    if types.len() > values.len() {
        let message = format!("the question has {} parameters, and {} values were given", types.len(), values.len());
        return Err(Refusal::new("sql_parameter", message));
    }
    let typed = values.into_iter().zip(types.into_iter().chain(std::iter::repeat(None))).enumerate().map(
        |(n, (value, wanted))| match wanted {
            Some(wanted) if wanted != value.data_type() && wanted != DataType::Null => {
                value.cast_to(&wanted).map_err(|_| {
                    let value = operators::error::excerpt(&value.to_string());
                    Refusal::new("sql_parameter", format!("the value {value} of ${} is no {wanted}", n + 1))
                })
            }
            _ => Ok(value),
        },
    );
    let typed: Vec<ScalarValue> = typed.collect::<Result<_, _>>()?;
    plan.with_param_values(typed).map_err(|e| refuse::refusal(&e, &[]))
}
