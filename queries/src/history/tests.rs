//! Real Parquet files, real questions, and what must not be asked.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, new_null_array};
use datafusion::arrow::array::{BooleanArray, Float64Array, Int32Array, Int64Array, StringViewArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::parquet::arrow::ArrowWriter;
use operators::batch::{DELETED, OFFSET, PARTITION, TICK};
use operators::record::output;

use super::*;

const ROOMY: Options = Options { memory_bytes_max: 256 << 20, rows_max: 1_000, time_ms_max: 60_000, threads: 2 };

/// Writes a file as worker 0 of 1 does, of the ticks in `from..upto`; its path.
fn write(directory: &Path, stream: &str, (from, upto): (u64, u64), rows: &RecordBatch) -> PathBuf {
    let directory = directory.join(stream).join("date=2026-01-01");
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(format!("{from:016}-{upto:016}-0of1.parquet"));
    let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
    path
}

/// Rows of a schema from some of its columns; the others are null.
fn rows(schema: &SchemaRef, columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let count = columns[0].1.len();
    let fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    let all = fields.iter().map(|field| {
        let given = columns.iter().find(|(name, _)| name == field.name());
        given.map_or_else(|| new_null_array(field.data_type(), count), |(_, column)| column.clone())
    });
    let all = all.collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), all).unwrap()
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringViewArray::from_iter_values(values))
}
fn longs(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}
fn ticks(values: &[u64]) -> ArrayRef {
    Arc::new(UInt64Array::from(values.to_vec()))
}
fn floats(values: &[f64]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}
fn flags(values: &[bool]) -> ArrayRef {
    Arc::new(BooleanArray::from(values.to_vec()))
}

fn telemetry(first: i64, count: i64) -> RecordBatch {
    let devices: Vec<String> = (first..first + count).map(|n| format!("device-with-a-long-name-{}", n % 3)).collect();
    let numbers: Vec<i64> = (first..first + count).collect();
    let speeds: Vec<f64> = numbers.iter().map(|n| *n as f64).collect();
    rows(
        &output::enriched(),
        vec![
            ("device_id", Arc::new(StringViewArray::from_iter_values(&devices))),
            ("ts", longs(&numbers.iter().map(|n| 1_700_000_000_000 + n * 1_000).collect::<Vec<_>>())),
            ("speed_kmh", floats(&speeds)),
            (PARTITION, Arc::new(Int32Array::from(vec![0; numbers.len()]))),
            (OFFSET, longs(&numbers)),
            (TICK, ticks(&numbers.iter().map(|n| *n as u64 * 10).collect::<Vec<_>>())),
        ],
    )
}

fn minutes(values: &[(i64, i64, f64, bool, u64)]) -> RecordBatch {
    rows(
        &output::company_minute(),
        vec![
            ("company_id", texts(&vec!["c1"; values.len()])),
            ("window_start", longs(&values.iter().map(|v| v.0).collect::<Vec<_>>())),
            ("fixes", longs(&values.iter().map(|v| v.1).collect::<Vec<_>>())),
            ("top_speed_kmh", floats(&values.iter().map(|v| v.2).collect::<Vec<_>>())),
            (DELETED, flags(&values.iter().map(|v| v.3).collect::<Vec<_>>())),
            (TICK, ticks(&values.iter().map(|v| v.4).collect::<Vec<_>>())),
        ],
    )
}

async fn refused(history: &History, sql: &str) -> Refusal {
    match history.query(sql).await {
        Ok(answer) => panic!("{sql} was answered:\n{}", answer.to_table().unwrap()),
        Err(refusal) => refusal,
    }
}

async fn numbers(history: &History, sql: &str) -> Vec<i64> {
    let answer = history.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let columns = answer.batches.iter().flat_map(|batch| batch.columns().to_vec());
    columns.flat_map(|column| column.as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[tokio::test]
async fn files_are_found_as_they_are_written() {
    // Characters that mean something in URLs and patterns.
    let folder = tempfile::Builder::new().prefix("a [b]*%20#?").tempdir().unwrap();
    let history = History::open(folder.path(), ROOMY).unwrap();
    let count = "SELECT count(*) FROM telemetry_history";
    assert_eq!(numbers(&history, count).await, [0], "no file yet");
    write(folder.path(), "telemetry_enriched", (0, 10), &telemetry(0, 100));
    assert_eq!(numbers(&history, count).await, [100]);
    let second = write(folder.path(), "telemetry_enriched", (10, 20), &telemetry(100, 50));
    std::fs::write(second.with_extension("parquet.3.tmp"), "half").unwrap();
    std::fs::write(second.with_file_name(".lock"), "").unwrap();
    assert_eq!(numbers(&history, count).await, [150]);
    // Both were put together, and are not removed yet.
    write(folder.path(), "telemetry_enriched", (0, 20), &telemetry(0, 150));
    assert_eq!(numbers(&history, count).await, [150]);
    write(folder.path(), "telemetry_enriched", (20, 30), &telemetry(150, 0));
    std::fs::remove_file(second).unwrap();
    assert_eq!(numbers(&history, count).await, [150]);
    let sql = "SELECT device_id, count(*) AS n, max(speed_kmh) AS top, max(\"__offset\") AS last FROM telemetry_history \
               WHERE ts >= 1700000010000 GROUP BY device_id ORDER BY device_id";
    let answer = history.query(sql).await.unwrap();
    assert_eq!(
        answer.to_csv().unwrap(),
        "device_id,n,top,last\ndevice-with-a-long-name-0,46,147.0,147\ndevice-with-a-long-name-1,47,148.0,148\n\
         device-with-a-long-name-2,47,149.0,149\n"
    );
    let json: serde_json::Value = serde_json::from_str(&answer.to_json().unwrap()).unwrap();
    assert_eq!(json[0]["n"], 46);
    assert!(answer.to_table().unwrap().contains("| device-with-a-long-name-0 | 46 | 147.0 | 147  |"));
}

#[tokio::test]
async fn of_a_window_the_newest_version_stands() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "company_minute", (0, 10), &minutes(&[(0, 1, 10.0, false, 10), (60, 5, 50.0, false, 10)]));
    write(folder.path(), "company_minute", (10, 20), &minutes(&[(0, 2, 20.0, false, 20), (60, 0, 0.0, true, 30)]));
    // Of one tick, the delete counts before the upsert; an older version that was written later changes nothing.
    let third =
        minutes(&[(0, 9, 9.0, true, 40), (0, 3, 30.0, false, 40), (0, 1, 10.0, false, 10), (120, 7, 7.0, false, 5)]);
    write(folder.path(), "company_minute", (20, 30), &third);
    let history = History::open(folder.path(), ROOMY).unwrap();
    let sql = "SELECT window_start, fixes FROM company_minute ORDER BY window_start";
    let answer = history.query(sql).await.unwrap();
    assert_eq!(answer.to_csv().unwrap(), "window_start,fixes\n0,3\n120,7\n");
    assert_eq!(refused(&history, "SELECT * FROM company_minute_files").await.code, "sql_unknown_table");
}

#[tokio::test]
async fn files_of_other_builds_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let ids: ArrayRef = Arc::new(StringArray::from(vec!["d1"]));
    let schema = Schema::new(vec![
        Field::new("device_id", DataType::Utf8, false),
        Field::new("ts", DataType::Int64, false),
        Field::new("dropped_since", DataType::Int64, false),
    ]);
    let old = RecordBatch::try_new(Arc::new(schema), vec![ids, longs(&[1]), longs(&[2])]).unwrap();
    write(folder.path(), "telemetry_enriched", (0, 10), &old);
    write(folder.path(), "telemetry_enriched", (10, 20), &telemetry(5, 1));
    let history = History::open(folder.path(), ROOMY).unwrap();
    let answer = history.query("SELECT device_id, ts, speed_kmh FROM telemetry_history ORDER BY ts").await.unwrap();
    assert_eq!(
        answer.to_csv().unwrap(),
        "device_id,ts,speed_kmh\nd1,1,\ndevice-with-a-long-name-2,1700000005000,5.0\n"
    );
}

#[tokio::test]
async fn only_queries_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "telemetry_enriched", (0, 10), &telemetry(0, 10));
    let outside = folder.path().join("out.csv");
    let history = History::open(folder.path(), ROOMY).unwrap();
    let copy = format!("COPY telemetry_history TO '{}'", outside.display());
    let external = format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{}'", folder.path().display());
    for (sql, name) in [
        (copy.as_str(), "COPY"),
        (external.as_str(), "CREATE EXTERNAL TABLE"),
        ("CREATE TABLE t AS SELECT 1", "CREATE TABLE"),
        ("CREATE VIEW t AS SELECT 1", "CREATE VIEW"),
        ("DROP TABLE telemetry_history", "DROP"),
        ("INSERT INTO telemetry_history (device_id) VALUES ('x')", "INSERT"),
        ("DELETE FROM telemetry_history", "DELETE"),
        ("UPDATE telemetry_history SET ts = 0", "UPDATE"),
        ("SET datafusion.execution.batch_size = 1", "SET"),
        ("SHOW TABLES", "SHOW"),
        ("EXPLAIN ANALYZE SELECT 1", "EXPLAIN"),
        ("PREPARE p AS SELECT 1", "PREPARE"),
        ("EXECUTE p", "EXECUTE"),
        ("TRUNCATE TABLE telemetry_history", "TRUNCATE"),
        ("BEGIN", "a transaction"),
    ] {
        let refusal = refused(&history, sql).await;
        assert_eq!((refusal.code, refusal.message.as_str()), ("sql_statement_not_allowed", name), "{sql}");
    }
    // Queries in form, more in fact.
    for sql in ["SELECT 1 INTO t", "WITH x AS (INSERT INTO telemetry_history VALUES (1) RETURNING 1) SELECT * FROM x"] {
        let refusal = refused(&history, sql).await;
        assert!(refusal.code.starts_with("sql_"), "{sql}: {refusal}");
    }
    assert!(!outside.exists());
    for sql in [
        "SELECT * FROM '/etc/passwd'".to_owned(),
        format!("SELECT * FROM '{}'", file.display()),
        "SELECT * FROM \"file:///etc/passwd\"".to_owned(),
        "SELECT * FROM information_schema.tables".to_owned(),
        "SELECT * FROM secrets".to_owned(),
    ] {
        let refusal = refused(&history, &sql).await;
        assert_eq!(refusal.code, "sql_unknown_table", "{sql}: {refusal}");
        assert!(
            refusal.message.contains("there are telemetry_history, vehicle_events, rejected, company_minute"),
            "{refusal}"
        );
    }
}

#[tokio::test]
async fn mistakes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let history = History::open(folder.path(), ROOMY).unwrap();
    for (sql, code, part) in [
        ("", "sql_syntax", "no statement"),
        ("-- nothing", "sql_syntax", "no statement"),
        ("SELECT 1; SELECT 2", "sql_syntax", "more than one"),
        ("SELEC 1", "sql_syntax", "SELEC"),
        ("SELECT 'open", "sql_syntax", "Unterminated"),
        (
            "SELECT devise_id FROM telemetry_history",
            "sql_unknown_column",
            "devise_id; did you mean device_id? there are altitude_m",
        ),
        ("SELECT nope(ts) FROM telemetry_history", "sql_unknown_function", "nope"),
        ("SELECT ts, count(*) FROM telemetry_history", "sql_invalid", "ts"),
        ("SELECT * FROM telemetry_history WHERE count(*) > 1", "sql_invalid", "HAVING"),
        ("SELECT ts FROM telemetry_history a, telemetry_history b", "sql_ambiguous_column", "ts"),
        ("SELECT repeat('x', 1000000000)", "sql_unknown_function", "repeat"),
        ("SELECT * FROM generate_series(1, 9876543210)", "sql_", "generate_series"),
    ] {
        let refusal = refused(&history, sql).await;
        assert!(refusal.code.starts_with(code), "{sql}: {refusal}");
        assert!(refusal.message.contains(part), "{sql}: {refusal}");
    }
    assert_eq!(refused(&history, "SELECT 1,\n  )").await.field.as_deref(), Some("2:3"));
    let wrong = History::open(&folder.path().join("none"), ROOMY).unwrap_err();
    assert_eq!(wrong.code, "history_unreadable");
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "telemetry_enriched", (0, 10), &telemetry(0, 10));
    let history = History::open(folder.path(), ROOMY).unwrap();
    let damaged = write(folder.path(), "telemetry_enriched", (10, 20), &telemetry(10, 10));
    let good = std::fs::read(&damaged).unwrap();
    let footer = good.len() - 8;
    let mut wrong_length = good.clone();
    wrong_length[footer..footer + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    for bytes in
        [b"".as_slice(), b"PAR1", b"PAR1 not really, but long enough PAR1", &good[..good.len() / 2], &wrong_length]
    {
        std::fs::write(&damaged, bytes).unwrap();
        let refusal = refused(&history, "SELECT sum(ts) FROM telemetry_history").await;
        assert_eq!(refusal.code, "history_unreadable", "{refusal}");
        assert!(refusal.message.contains("20-0of1.parquet: it is not a Parquet file"), "{refusal}");
    }
    // Whatever else is wrong in a file is told by its reader.
    let mut zeroed = good.clone();
    let metadata = footer - u32::from_le_bytes(good[footer..footer + 4].try_into().unwrap()) as usize;
    zeroed[metadata..footer].fill(0xff);
    std::fs::write(&damaged, zeroed).unwrap();
    assert_eq!(refused(&history, "SELECT sum(ts) FROM telemetry_history").await.code, "history_unreadable");
}

#[tokio::test]
async fn memory_rows_and_time_are_limited() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "telemetry_enriched", (0, 10), &telemetry(0, 20_000));
    let open = |options| History::open(folder.path(), options).unwrap();
    let history = open(Options { rows_max: 10, ..ROOMY });
    let answer = history.query("SELECT ts FROM telemetry_history").await.unwrap();
    assert_eq!((answer.rows(), answer.truncated), (10, true));
    let answer = history.query("SELECT ts FROM telemetry_history LIMIT 10").await.unwrap();
    assert_eq!((answer.rows(), answer.truncated), (10, false));

    let history = open(Options { memory_bytes_max: 1 << 20, ..ROOMY });
    let refusal =
        refused(&history, "SELECT ts, device_id, array_agg(device_id) FROM telemetry_history GROUP BY 1, 2").await;
    assert_eq!(refusal.code, "sql_resource_exceeded", "{refusal}");
    let history = open(Options { memory_bytes_max: 1 << 20, rows_max: 1_000_000, ..ROOMY });
    let refusal = refused(&history, "SELECT * FROM telemetry_history").await;
    assert_eq!(refusal.code, "sql_resource_exceeded", "{refusal}");

    let history = open(Options { time_ms_max: 200, ..ROOMY });
    // Two billion pairs of equal devices.
    let sql = "SELECT count(*) FROM telemetry_history a JOIN telemetry_history b ON a.device_id = b.device_id \
               JOIN telemetry_history c ON b.device_id = c.device_id";
    let refusal = refused(&history, sql).await;
    assert_eq!(refusal.code, "sql_time_limit", "{refusal}");
    let sql = "SELECT count(*) FROM telemetry_history a, telemetry_history b WHERE a.ts + b.ts = 1";
    let refusal = refused(&history, sql).await;
    assert_eq!(refusal.code, "sql_too_complex", "{refusal}");
    assert!(refusal.message.contains("20000 × 20000 rows"), "{refusal}");
    let sql = "WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";
    assert!(refused(&history, sql).await.code.starts_with("sql_"));
    // One row beside all others is no harm.
    let sql = "SELECT count(*) FROM telemetry_history, (SELECT avg(speed_kmh) AS usual FROM telemetry_history) \
               WHERE speed_kmh > usual";
    assert_eq!(numbers(&open(ROOMY), sql).await, [10_000]);
    let sql = "SELECT count(*) FROM telemetry_history WHERE speed_kmh > (SELECT avg(speed_kmh) FROM telemetry_history)";
    assert_eq!(numbers(&open(ROOMY), sql).await, [10_000]);
    // The process lives on, and so does the history.
    assert_eq!(numbers(&history, "SELECT count(*) FROM telemetry_history WHERE ts > 0").await, [20_000]);
}

#[tokio::test]
async fn texts_as_deep_as_they_may_be_are_survived() {
    let folder = tempfile::tempdir().unwrap();
    let history = History::open(folder.path(), ROOMY).unwrap();
    let too_long = format!("SELECT 1 -- {}", "x".repeat(SQL_BYTES_MAX));
    assert_eq!(refused(&history, &too_long).await.code, "sql_too_complex");
    let too_many = format!("SELECT 1{}", "+1".repeat(SQL_TOKENS_MAX / 2));
    assert_eq!(refused(&history, &too_many).await.code, "sql_too_complex");
    let parens = format!("SELECT {}1{}", "(".repeat(900), ")".repeat(900));
    assert_eq!(refused(&history, &parens).await.code, "sql_too_complex");
    // As many of `part`, which is this many tokens, as may be.
    let fill = |head: &str, part: &str, tokens: usize| format!("{head}{}", part.repeat((SQL_TOKENS_MAX - 20) / tokens));
    for sql in [
        fill("SELECT count(*) FROM telemetry_history WHERE ts=0", " OR ts=1", 4),
        fill("SELECT 1", "+1", 2),
        fill("SELECT true", " AND NOT true", 3),
        fill("SELECT 1", " UNION ALL SELECT 1", 4),
        fill("SELECT 1 WHERE 1 IN (1", ",1", 2) + ")",
        fill("SELECT count(*) FROM telemetry_history a", " JOIN telemetry_history USING (ts)", 6),
    ] {
        // Answered or refused, but the process stands.
        if let Err(refusal) = history.query(&sql).await {
            assert!(refusal.code.starts_with("sql_"), "{}…: {refusal}", &sql[..60]);
        }
    }
}
