//! The tables that can be asked for, and where their files lie.
//!
//! Invariant: a table has its columns whether or not a file is there, and whatever older builds wrote into the files: a
//! column that a file lacks is null.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::datasource::MemTable;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::DataFusionError;
use datafusion::execution::context::SessionContext;
use operators::batch::INTERNAL;
use operators::error::{self, Refusal};
use operators::record::output;

use super::{files, own};
use crate::question::refuse;
use crate::readers::Companies;

/// A table of the history.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Name in SQL.
    pub name: &'static str,
    /// Stream whose rows it holds: the name of its directory.
    pub stream: &'static str,
    /// What it holds.
    pub meaning: &'static str,
    schema: fn() -> SchemaRef,
    /// The column that says whose a row is.
    pub access: Option<&'static str>,
    /// Makes of the rows as they were written the rows that stand; `FILES` is the table of the former.
    view: Option<&'static str>,
}

/// All of them.
pub const TABLES: [Table; 4] = [
    Table {
        name: "telemetry_history",
        stream: "telemetry_enriched",
        meaning: "each accepted message with the vehicle, driver and company of that moment; ts and __tick are \
                  milliseconds since 1970",
        schema: output::enriched,
        access: Some("company_id"),
        view: None,
    },
    Table {
        name: "vehicle_events",
        stream: "vehicle_events",
        meaning: "what happened to a device: device.offline, device.online",
        schema: output::vehicle_events,
        access: Some("company_id"),
        view: None,
    },
    Table {
        name: "rejected",
        stream: "rejected",
        meaning: "records that were refused, with the reason, as they came",
        schema: error::rejected_schema,
        access: None,
        view: None,
    },
    Table {
        name: "company_minute",
        stream: "company_minute",
        meaning: "messages, average and top speed per company and minute of device time",
        schema: output::company_minute,
        access: Some("company_id"),
        // Each row was written as often as late data changed it; the newest stands.
        view: Some(
            "SELECT company_id, window_start, fixes, average_speed_kmh, top_speed_kmh FROM ( \
               SELECT *, row_number() OVER ( \
                 PARTITION BY company_id, window_start ORDER BY \"__tick\" DESC, \"__deleted\" ASC) AS nth \
               FROM FILES) WHERE nth = 1 AND NOT \"__deleted\"",
        ),
    },
];

impl Table {
    /// Its name among the tables of the namespace `history`.
    #[must_use]
    pub fn short_name(&self) -> &'static str {
        self.name.strip_suffix("_history").unwrap_or(self.name)
    }

    /// Its columns.
    #[must_use]
    pub fn shown_schema(&self) -> SchemaRef {
        let all = columns(&(self.schema)());
        // What a view leaves out: the marks of versions.
        let shown = all.fields().iter().filter(|field| self.view.is_none() || !field.name().starts_with("__"));
        Arc::new(Schema::new(shown.cloned().collect::<Vec<_>>()))
    }

    /// Names and SQL types of its columns.
    #[must_use]
    pub fn columns(&self) -> Vec<(String, &'static str)> {
        let schema = self.shown_schema();
        schema.fields().iter().map(|field| (field.name().clone(), sql_type(field.data_type()))).collect()
    }
}

fn sql_type(kind: &DataType) -> &'static str {
    match kind {
        DataType::Boolean => "BOOLEAN",
        DataType::Int32 => "INT",
        DataType::Int64 => "BIGINT",
        DataType::UInt64 => "BIGINT UNSIGNED",
        DataType::Float64 => "DOUBLE",
        _ => "VARCHAR",
    }
}

/// The columns of a table's files. Null where a file of another build lacks one.
fn columns(written: &SchemaRef) -> SchemaRef {
    let columns = written.fields().iter().filter(|field| !INTERNAL.contains(&field.name().as_str()));
    Arc::new(Schema::new(columns.map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<Field>>()))
}

/// Their names, for messages.
pub fn names() -> Vec<String> {
    TABLES.iter().map(|table| table.name.to_owned()).collect()
}

/// Makes all tables known to the session.
pub async fn register(context: &SessionContext, directory: &Path) -> Result<(), Refusal> {
    let all: Vec<(Table, TableReference)> = TABLES.iter().map(|table| (*table, table.name.into())).collect();
    register_as(context, directory, &all, &Companies::All).await
}

/// Makes these tables known to the session by these names, with the rows of these companies.
pub async fn register_as(
    context: &SessionContext,
    directory: &Path,
    wanted: &[(Table, TableReference)],
    companies: &Companies,
) -> Result<(), Refusal> {
    let directories: Vec<PathBuf> = wanted.iter().map(|(table, _)| directory.join(table.stream)).collect();
    // Reads from the disk, which must not hold up a thread of the runtime.
    let look = move || directories.iter().map(|directory| files::current(directory)).collect::<Result<Vec<_>, _>>();
    let found = tokio::task::spawn_blocking(look).await.map_err(|e| refuse::unreadable(&e.to_string()))??;
    make_known(context, wanted, &found, companies).await.map_err(|e| refuse::refusal(&e, &names()))
}

async fn make_known(
    context: &SessionContext,
    wanted: &[(Table, TableReference)],
    found: &[Vec<PathBuf>],
    companies: &Companies,
) -> Result<(), DataFusionError> {
    for ((table, name), paths) in wanted.iter().zip(found) {
        let files = provider(paths, &(table.schema)())?;
        let whole = match table.view {
            None => files,
            Some(view) => {
                let raw = format!("{}_files", table.name);
                context.register_table(&raw, files)?;
                let view = context.sql(&view.replace("FILES", &raw)).await?.into_view();
                context.deregister_table(&raw)?;
                view
            }
        };
        let whole = own::rows(whole, table.access, companies)?;
        context.deregister_table(name.clone())?;
        context.register_table(name.clone(), whole)?;
    }
    Ok(())
}

fn provider(paths: &[PathBuf], written: &SchemaRef) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    let schema = columns(written);
    if paths.is_empty() {
        return Ok(Arc::new(MemTable::try_new(schema, vec![vec![]])?));
    }
    let options = ListingOptions::new(Arc::new(ParquetFormat::default())).with_file_extension(".parquet");
    let urls = paths.iter().map(|path| url(path)).collect::<Result<_, _>>()?;
    let config = ListingTableConfig::new_with_multi_paths(urls).with_listing_options(options).with_schema(schema);
    Ok(Arc::new(ListingTable::try_new(config)?))
}

/// The file as a URL: as a path, characters such as `[` would count as a pattern.
fn url(path: &Path) -> Result<ListingTableUrl, DataFusionError> {
    let text =
        path.to_str().ok_or_else(|| DataFusionError::Configuration(format!("{} is not UTF-8", path.display())))?;
    ListingTableUrl::parse(format!("file://{}", text.replace('%', "%25").replace('?', "%3F").replace('#', "%23")))
}
