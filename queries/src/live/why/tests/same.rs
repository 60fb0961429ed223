//! Rows of a key come out of what is left of the inputs as they come out of all of them: many plans, many keys. Would catch a
//! condition that lineage brings down too far, so that a row is left out that matters.

use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array, StringViewArray, TimestampMillisecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;

use super::*;
use crate::live::why::sieve::Sieve;
use crate::plan::lineage::{Condition, Is};
use crate::plan::{Inputs, lower, place, plan_sql};

const PLANS: [&str; 31] = [
    "SELECT a + 1 AS a, s, f * 2 AS f FROM t WHERE f > 1",
    "SELECT a, s, count(*) AS n, sum(f) AS f FROM t GROUP BY a, s",
    "SELECT a % 2 AS a, max(f) AS f FROM t GROUP BY a % 2 HAVING count(*) > 2",
    "SELECT count(*) AS n, max(f) AS f FROM t",
    "SELECT DISTINCT a, s FROM t",
    "SELECT t.a, t.s, u.a AS b, u.f FROM t JOIN u ON t.a = u.a",
    "SELECT t.a, t.s, u.a AS b, u.f FROM t JOIN u ON t.a = u.a AND t.f > u.f",
    "SELECT t.a, t.s, u.a AS b, u.f FROM t LEFT JOIN u ON t.a = u.a",
    "SELECT t.a, t.s, u.a AS b, u.f FROM t LEFT JOIN u ON t.a = u.a AND u.f > 1",
    "SELECT t.a, t.s, u.a AS b, u.f FROM t RIGHT JOIN u ON t.a = u.a",
    "SELECT t.a, t.s, u.a AS b, u.f FROM t FULL JOIN u ON t.a = u.a",
    "SELECT t.a, t.s, u.a AS b, u.f FROM t FULL JOIN u ON t.a = u.a AND t.s = u.s",
    "SELECT coalesce(t.a, u.a) AS a, coalesce(u.s, 'x') AS s FROM t FULL JOIN u ON t.a = u.a",
    "SELECT t.a, coalesce(u.s, 'x') AS s FROM t LEFT JOIN u ON t.a = u.a",
    "SELECT t.a + u.a AS a, t.s FROM t JOIN u ON t.a = u.a",
    "SELECT x.a, y.s, x.s AS z FROM t x JOIN t y ON x.a = y.a",
    "SELECT a, s, f FROM t WHERE a IN (SELECT a FROM u)",
    "SELECT a, s, f FROM t WHERE a NOT IN (SELECT a FROM u)",
    "SELECT a, s, f FROM t WHERE a NOT IN (SELECT a FROM u WHERE a > 2)",
    "SELECT a, s, f FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.a = t.a AND u.f > t.f)",
    "SELECT a, s, f FROM t WHERE a IN (SELECT a FROM u) OR f > 2",
    "SELECT a, s, f FROM t WHERE f > (SELECT avg(f) FROM u)",
    "SELECT a, s, f FROM t ORDER BY f DESC, a, s LIMIT 5",
    "SELECT DISTINCT ON (a) a, s, f FROM t ORDER BY a, f DESC, s",
    "SELECT a, s, row_number() OVER (PARTITION BY a ORDER BY f, s) AS place FROM t",
    "SELECT a, s, f, sum(f) OVER (PARTITION BY a, s ORDER BY ts, f) AS running FROM t",
    "SELECT a, hop(ts, interval '5 milliseconds', interval '10 milliseconds') AS w, count(*) AS n FROM t GROUP BY 1, 2",
    "SELECT a, session(ts, interval '3 milliseconds') AS began, count(*) AS n FROM t GROUP BY 1, 2",
    "SELECT a, s, 't' AS k FROM t UNION ALL SELECT a, s, 'u' FROM u",
    "SELECT a, s FROM t EXCEPT SELECT a, s FROM u",
    "SELECT a, s FROM t INTERSECT SELECT a, s FROM u",
];

pub(super) fn schema() -> SchemaRef {
    let time = crate::plan::now_type();
    let columns = [("a", DataType::Int64), ("s", DataType::Utf8View), ("f", DataType::Float64), ("ts", time)]
        .map(|(name, kind)| Field::new(name, kind, true));
    Arc::new(Schema::new(columns.to_vec()))
}

/// Few different values, so that rows meet, and nulls.
pub(super) fn table(seed: u64, rows: u64) -> Vec<(Row, Diff)> {
    let value = |row: u64, column: u64, of: u64| {
        let mixed = (row * 31 + column * 7 + seed * 101 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        (!mixed.is_multiple_of(7)).then_some((mixed / 7) % of)
    };
    let all = |column: u64, of: u64| (0..rows).map(move |row| value(row, column, of));
    let texts = ["x", "y", "z"];
    let columns: [ArrayRef; 4] = [
        Arc::new(all(0, 5).map(|value| value.map(|value| value as i64)).collect::<Int64Array>()),
        Arc::new(all(1, 3).map(|value| value.map(|value| texts[value as usize])).collect::<StringViewArray>()),
        Arc::new(all(2, 4).map(|value| value.map(|value| value as f64)).collect::<Float64Array>()),
        Arc::new(all(3, 30).map(|value| value.map(|value| value as i64)).collect::<TimestampMillisecondArray>()),
    ];
    let mut counted = BTreeMap::new();
    for row in Codec::new(schema()).and_then(|codec| codec.encode(&columns, rows as usize)).expect("rows") {
        count(&mut counted, row, 1);
    }
    counted.into_iter().collect()
}

/// Rows of the key that come out.
fn played(
    node: &Arc<Node>,
    conditions: Vec<Condition>,
    content: &BTreeMap<String, Vec<(Row, Diff)>>,
) -> BTreeMap<Row, Diff> {
    let trace = Arc::new(trace(node, conditions).expect("a plan").expect("few operators"));
    let deadline = Instant::now() + Duration::from_secs(60);
    let question = Question {
        trace,
        log: None,
        content: content.clone(),
        first: 1_000,
        deadline,
        bytes_max: 1 << 30,
        stopped: Arc::default(),
    };
    let followed = play(question).expect("an answer");
    assert!(followed.complete);
    followed.noted[0].seen.content().expect("few rows").clone()
}

/// Compares what is played for each key with its rows among all; tells how often less than all was needed for it.
pub(super) fn each_alone(
    node: &Arc<Node>,
    sql: &str,
    keys: Vec<Vec<Condition>>,
    all: &BTreeMap<Row, Diff>,
    played: impl Fn(Vec<Condition>) -> BTreeMap<Row, Diff>,
) -> usize {
    let rows = Codec::new(node.schema.clone()).and_then(|codec| codec.decode(all.keys())).expect("rows");
    let mut restricted = 0;
    for key in keys {
        let stays = Sieve::new(&key).stays(&rows, |_| 1).expect("columns of the plan");
        let wanted = all.iter().enumerate().filter(|(row, _)| stays.value(*row));
        let wanted: BTreeMap<Row, Diff> = wanted.map(|(_, (row, diff))| (row.clone(), *diff)).collect();
        let traced = trace(node, key.clone()).expect("a plan").expect("few operators");
        restricted += traced.gates.iter().filter(|gate| !gate.needed.is_empty()).count();
        assert_eq!(played(key.clone()), wanted, "{sql}: {key:?}");
    }
    restricted
}

/// That a column has the value of a row.
pub(super) fn has_value(rows: &RecordBatch, column: usize, row: usize) -> Condition {
    let values = operators::row::as_key(rows.column(column));
    Condition { of: place(column), is: Is::Value(ScalarValue::try_from_array(&values, row).expect("a value")) }
}

#[test]
fn rows_of_a_key_are_the_same_as_without_it() {
    let inputs = Inputs::default().with("t", schema(), Kind::Table).with("u", schema(), Kind::Table);
    let content = BTreeMap::from([("t".to_owned(), table(1, 40)), ("u".to_owned(), table(2, 12))]);
    let mut restricted = 0;
    for sql in PLANS {
        let node = lower(&plan_sql(&inputs, sql).expect(sql), &inputs).expect(sql);
        let all = played(&node, Vec::new(), &content);
        // A null there leaves nothing.
        assert!(!all.is_empty() || sql.ends_with("NOT IN (SELECT a FROM u)"), "{sql}: it shows nothing");
        let codec = Codec::new(node.schema.clone()).expect("a schema of rows");
        let rows = codec.decode(all.keys()).expect("rows");
        let value = |column: usize, row: usize| has_value(&rows, column, row);
        let width = rows.num_columns();
        let mut keys: Vec<Vec<Condition>> = Vec::new();
        for row in (0..rows.num_rows()).step_by(rows.num_rows().div_ceil(8).max(1)) {
            keys.extend((0..width).map(|column| vec![value(column, row)]));
            keys.push((0..width.min(2)).map(|column| value(column, row)).collect());
        }
        // And what may not be there.
        keys.extend((0..width).flat_map(|column| {
            let kind = node.schema.field(column).data_type();
            let null = ScalarValue::try_from(kind).expect("a null");
            let one = ScalarValue::Int64(Some(1)).cast_to(kind).unwrap_or_else(|_| null.clone());
            [null, one].map(|value| vec![Condition { of: place(column), is: Is::Value(value) }])
        }));
        restricted += each_alone(&node, sql, keys, &all, |key| played(&node, key, &content));
    }
    assert!(restricted > 500, "{restricted}: lineage brings hardly anything down");
}
