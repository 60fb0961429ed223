//! Postgres' catalogue as far as it tells of our relations: made of the list of relations for each question that asks.
//!
//! Invariant: only what the list says is told; a table that we do not have is one without rows.

mod rows;
mod types;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::TableReference;

use super::directory::{CATALOG, Directory, number};
use super::{Kind, PUBLIC, Relation};
use rows::Rows;

pub use types::{format_type, length, type_of};

/// The catalogue's own namespace.
pub const NAMESPACE: &str = "pg_catalog";
const NAMESPACE_NUMBER: i32 = 11;
const PUBLIC_NUMBER: i32 = 2_200;
/// Whom everything belongs to.
pub const OWNER: &str = "haulstream";
const OWNER_NUMBER: i32 = 10;
const DATABASE_NUMBER: i32 = 5;
/// `pg_am.oid` of tables.
const HEAP_NUMBER: i32 = 2;

/// Tables that have rows.
const WITH_ROWS: [&str; 11] = [
    "pg_namespace",
    "pg_class",
    "pg_attribute",
    "pg_type",
    "pg_am",
    "pg_database",
    "pg_roles",
    "pg_user",
    "pg_tables",
    "pg_views",
    "pg_settings",
];

/// Tables that have none, with the columns that others are joined to them by: `n` a number, `t` a text, `b` a flag.
const WITHOUT_ROWS: [(&str, &str); 14] = [
    ("pg_attrdef", "oid:n adrelid:n adnum:n adbin:t"),
    ("pg_description", "objoid:n classoid:n objsubid:n description:t"),
    ("pg_shdescription", "objoid:n classoid:n description:t"),
    ("pg_constraint", "oid:n conname:t connamespace:n contype:t conrelid:n conindid:n confrelid:n conkey:t confkey:t"),
    ("pg_index", "indexrelid:n indrelid:n indisprimary:b indisunique:b indisclustered:b indisvalid:b indkey:t"),
    ("pg_collation", "oid:n collname:t collnamespace:n"),
    ("pg_enum", "oid:n enumtypid:n enumlabel:t enumsortorder:n"),
    ("pg_range", "rngtypid:n rngsubtype:n"),
    ("pg_proc", "oid:n proname:t pronamespace:n prokind:t prorettype:n"),
    ("pg_inherits", "inhrelid:n inhparent:n inhseqno:n"),
    ("pg_tablespace", "oid:n spcname:t"),
    ("pg_trigger", "oid:n tgrelid:n tgname:t"),
    ("pg_matviews", "schemaname:t matviewname:t matviewowner:t definition:t"),
    ("pg_extension", "oid:n extname:t extversion:t extnamespace:n"),
];

/// Whether the table may have rows.
pub fn has_rows(table: &str) -> bool {
    WITH_ROWS.contains(&table)
}

/// The table of the catalogue that is meant, if it is one.
pub fn table(reference: &TableReference, directory: &Directory) -> Option<RecordBatch> {
    if reference.schema().is_some_and(|schema| schema != NAMESPACE) || reference.catalog().is_some_and(|c| c != CATALOG)
    {
        return None;
    }
    Some(match reference.table() {
        "pg_namespace" => namespaces(directory),
        "pg_class" => classes(directory),
        "pg_attribute" => attributes(directory),
        "pg_type" => types::table(NAMESPACE_NUMBER, OWNER_NUMBER),
        "pg_am" => {
            Rows::of(1).numbers("oid", &[HEAP_NUMBER]).texts("amname", &["heap"]).same_text("amtype", "t").batch()
        }
        "pg_database" => database(),
        "pg_roles" | "pg_user" => role(),
        "pg_tables" => named(directory, &[Kind::Table, Kind::System, Kind::History], ["tablename", "tableowner"]),
        "pg_views" => named(directory, &[Kind::View], ["viewname", "viewowner"]),
        "pg_settings" => settings(),
        other => {
            let columns = WITHOUT_ROWS.iter().find(|(name, _)| *name == other).map(|(_, columns)| *columns);
            // In the catalogue's own namespace any name is one of its tables.
            let columns = columns.or_else(|| reference.schema().map(|_| "oid:n"))?;
            columns.split(' ').fold(Rows::of(0), |rows, column| match column.split_once(':') {
                Some((name, "n")) => rows.numbers(name, &[]),
                Some((name, "b")) => rows.same_flag(name, false),
                Some((name, _)) => rows.no_text(name),
                None => rows,
            })
        }
        .batch(),
    })
}

fn namespace_number(namespace: &str) -> i32 {
    match namespace {
        NAMESPACE => NAMESPACE_NUMBER,
        PUBLIC => PUBLIC_NUMBER,
        other => number(other),
    }
}

fn namespaces(directory: &Directory) -> RecordBatch {
    let mut names = directory.namespaces();
    names.extend([PUBLIC, NAMESPACE, "information_schema"]);
    names.sort_unstable();
    names.dedup();
    let numbers: Vec<i32> = names.iter().map(|name| namespace_number(name)).collect();
    Rows::of(names.len())
        .numbers("oid", &numbers)
        .texts("nspname", &names)
        .same_number("nspowner", OWNER_NUMBER)
        .no_texts("nspacl")
        .batch()
}

/// Postgres' letter for the kind of a relation. Views are kept up to date, as materialized ones are not.
fn letter(kind: Kind) -> &'static str {
    match kind {
        Kind::View => "v",
        Kind::Table | Kind::System | Kind::History => "r",
    }
}

fn classes(directory: &Directory) -> RecordBatch {
    let all: Vec<(i32, &Relation)> = directory.numbered().collect();
    let numbers: Vec<i32> = all.iter().map(|(number, _)| *number).collect();
    let names: Vec<&str> = all.iter().map(|(_, relation)| relation.name.name.as_str()).collect();
    let namespaces: Vec<i32> = all.iter().map(|(_, relation)| namespace_number(&relation.name.namespace)).collect();
    let kinds: Vec<&str> = all.iter().map(|(_, relation)| letter(relation.kind)).collect();
    let columns: Vec<i32> = all.iter().map(|(_, relation)| relation.schema.fields().len() as i32).collect();
    let mut rows = Rows::of(all.len())
        .numbers("oid", &numbers)
        .texts("relname", &names)
        .numbers("relnamespace", &namespaces)
        .texts("relkind", &kinds)
        .numbers("relnatts", &columns)
        .same_number("relowner", OWNER_NUMBER)
        .same_number("relam", HEAP_NUMBER)
        .same_number("reltuples", -1)
        .same_text("relpersistence", "p")
        .same_text("relreplident", "n")
        .same_flag("relispopulated", true);
    for zero in ["reltype", "reloftype", "relfilenode", "reltablespace", "relpages", "reltoastrelid", "relchecks"] {
        rows = rows.same_number(zero, 0);
    }
    for no in [
        "relhasindex",
        "relisshared",
        "relhasrules",
        "relhastriggers",
        "relhassubclass",
        "relrowsecurity",
        "relforcerowsecurity",
        "relispartition",
    ] {
        rows = rows.same_flag(no, false);
    }
    rows.no_texts("relacl").no_texts("reloptions").no_text("relpartbound").batch()
}

fn attributes(directory: &Directory) -> RecordBatch {
    let (mut relations, mut names, mut types, mut places, mut needed) = (vec![], vec![], vec![], vec![], vec![]);
    for (number, relation) in directory.numbered() {
        for (place, field) in relation.schema.fields().iter().enumerate() {
            relations.push(number);
            names.push(field.name().as_str());
            types.push(types::type_of(field));
            places.push(place as i32 + 1);
            needed.push(!field.is_nullable() || relation.key.contains(field.name()));
        }
    }
    let numbers: Vec<i32> = types.iter().map(|kind| kind.oid() as i32).collect();
    let lengths: Vec<i32> = types.iter().map(types::length).collect();
    let mut rows = Rows::of(names.len())
        .numbers("attrelid", &relations)
        .texts("attname", &names)
        .numbers("atttypid", &numbers)
        .numbers("attlen", &lengths)
        .numbers("attnum", &places)
        .flags("attnotnull", &needed)
        .same_number("atttypmod", -1)
        .same_number("attstattarget", -1)
        .same_flag("attislocal", true)
        .same_text("attstorage", "p")
        .same_text("attidentity", "")
        .same_text("attgenerated", "")
        .same_text("attcompression", "");
    for zero in ["attndims", "attinhcount", "attcollation"] {
        rows = rows.same_number(zero, 0);
    }
    for no in ["attbyval", "atthasdef", "attisdropped", "atthasmissing"] {
        rows = rows.same_flag(no, false);
    }
    rows.no_texts("attacl").no_texts("attoptions").batch()
}

fn database() -> RecordBatch {
    Rows::of(1)
        .numbers("oid", &[DATABASE_NUMBER])
        .texts("datname", &[CATALOG])
        .same_number("datdba", OWNER_NUMBER)
        .same_number("encoding", 6)
        .same_number("datconnlimit", -1)
        .same_number("dattablespace", 0)
        .same_flag("datistemplate", false)
        .same_flag("datallowconn", true)
        .same_text("datcollate", "C")
        .same_text("datctype", "C")
        .same_text("datlocprovider", "c")
        .no_text("daticulocale")
        .no_texts("datacl")
        .batch()
}

fn role() -> RecordBatch {
    let mut rows = Rows::of(1)
        .numbers("oid", &[OWNER_NUMBER])
        .texts("rolname", &[OWNER])
        .texts("usename", &[OWNER])
        .same_number("usesysid", OWNER_NUMBER)
        .same_number("rolconnlimit", -1)
        .same_flag("rolinherit", true)
        .same_flag("rolcanlogin", true)
        .no_text("rolvaliduntil");
    for no in ["rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls", "usesuper", "usecreatedb"]
    {
        rows = rows.same_flag(no, false);
    }
    rows.batch()
}

fn settings() -> RecordBatch {
    let (names, values): (Vec<&str>, Vec<&str>) = super::wire::SETTINGS.iter().copied().unzip();
    Rows::of(names.len()).texts("name", &names).texts("setting", &values).batch()
}

fn named(directory: &Directory, kinds: &[Kind], [name, owner]: [&str; 2]) -> RecordBatch {
    let all: Vec<&Relation> = directory.relations().filter(|relation| kinds.contains(&relation.kind)).collect();
    let namespaces: Vec<&str> = all.iter().map(|relation| relation.name.namespace.as_str()).collect();
    let names: Vec<&str> = all.iter().map(|relation| relation.name.name.as_str()).collect();
    Rows::of(all.len())
        .texts("schemaname", &namespaces)
        .texts(name, &names)
        .same_text(owner, OWNER)
        .no_text("definition")
        .batch()
}
