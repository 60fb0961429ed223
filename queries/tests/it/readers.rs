//! Readers of some companies: whatever is asked, the answer is what everybody would get if the rows of others had never been there.
//! Catches: a row that a question reaches on another way than through its table, a condition that is computed on rows of others
//! (and fails on them), a count of the planner that knows of them, a relation that says nothing of companies and is read.

use std::sync::Arc;

use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch, StringViewArray};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use operators::time::Tick;
use queries::Reads;
use queries::readers::{Companies, DENIED, Reader};
use queries::reads::{Kind, Name, Options, PUBLIC, Relation, Relations, Snapshot};

use crate::generate::{Random, tables};
use crate::harness::texts;

const TICK: Tick = 2_000;

/// Tables with whose each row is, one of which may not say so.
struct Tables(Vec<(Relation, RecordBatch)>);

impl Tables {
    fn random(random: &mut Random) -> Tables {
        let size = 10 + random.below(40);
        let all = tables(random, size);
        let whose = |random: &mut Random| (!random.chance(15)).then(|| *random.of(&["c1", "c2", "c3"]));
        let table = |table: crate::harness::Changing| {
            let rows = table.at(TICK);
            let company: StringViewArray = (0..rows.num_rows()).map(|_| whose(random)).collect();
            let fields = rows.schema().fields().iter().cloned().chain([Arc::new(field())]).collect::<Vec<_>>();
            let columns = rows.columns().iter().cloned().chain([Arc::new(company) as ArrayRef]).collect();
            let schema = Arc::new(Schema::new(fields));
            let access = (table.name != "v" || random.chance(70)).then(|| "company".to_owned());
            let relation = Relation {
                name: Name::new(PUBLIC, &table.name),
                schema: schema.clone(),
                key: Vec::new(),
                access,
                kind: Kind::View,
            };
            (relation, RecordBatch::try_new(schema, columns).expect("the columns"))
        };
        Tables(all.into_iter().map(table).collect())
    }

    /// Only the rows of these, and what says whose its rows are.
    fn only(&self, companies: &[&str]) -> Tables {
        let own = |(relation, rows): &(Relation, RecordBatch)| {
            let whose = rows.column_by_name(relation.access.as_deref()?)?.as_string_view().clone();
            let own = (0..whose.len()).map(|row| Some(whose.is_valid(row) && companies.contains(&whose.value(row))));
            let own: BooleanArray = own.collect();
            Some((relation.clone(), filter_record_batch(rows, &own).expect("as many flags as rows")))
        };
        Tables(self.0.iter().filter_map(own).collect())
    }
}

fn field() -> Field {
    Field::new("company", DataType::Utf8View, true)
}

impl Relations for Tables {
    fn list(&self) -> Vec<Relation> {
        self.0.iter().map(|(relation, _)| relation.clone()).collect()
    }

    fn snapshot_all(&self, names: &[Name]) -> Vec<Option<Snapshot>> {
        let of = |name: &Name| {
            let (relation, rows) = self.0.iter().find(|(relation, _)| relation.name == *name)?;
            Some(Snapshot { as_of: TICK, access: relation.access.clone(), batches: vec![rows.clone()] })
        };
        names.iter().map(of).collect()
    }
}

fn reads(tables: Tables) -> Reads {
    let question =
        queries::history::Options { memory_bytes_max: 256 << 20, rows_max: 100_000, time_ms_max: 60_000, threads: 1 };
    Reads::new(Arc::new(tables), Options { question, questions_max: 4 }).expect("threads")
}

/// The rows in an order of their own, or the code of the refusal.
async fn answer(reads: &Reads, sql: &str) -> Result<Vec<String>, &'static str> {
    reads.query(sql).await.map(|answer| texts(&answer.batches)).map_err(|why| why.code)
}

/// The query, and forms of it that look at companies beside it.
fn questions(random: &mut Random) -> Vec<String> {
    let sql = random.query();
    let name = *random.of(&["t", "u"]);
    vec![
        format!("SELECT company, count(*) AS n FROM {name} GROUP BY company"),
        format!("SELECT count(*) AS n FROM ({sql}) AS x"),
        format!("WITH x AS ({sql}) SELECT count(*) AS n FROM x, (SELECT DISTINCT company FROM {name}) AS y"),
        // Fails on whoever has another company than the first.
        format!(
            "SELECT count(*) AS n FROM {name} WHERE CAST(substr(company, 2) AS BIGINT) / (2 - CAST(substr(company, 2) AS BIGINT)) > 0"
        ),
        format!("SELECT max(company) AS m FROM {name} UNION ALL SELECT min(company) FROM {name} WHERE company <> 'c1'"),
        sql,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_changes_no_answer() {
    let (mut answered, mut denied, mut failed) = (0, 0, 0);
    for seed in 0..60 {
        let mut random = Random::new(90_000 + seed);
        let tables = Tables::random(&mut random);
        let companies: &[&str] = [&["c1"][..], &["c2", "c3"], &["c4"], &[]][seed as usize % 4];
        let reader = Reader {
            name: Some("somebody".to_owned()),
            companies: Companies::only(companies.iter().copied()),
            may_change: false,
        };
        let own = reads(tables.only(companies));
        let mine = reads(tables).seen_by(&reader);
        for sql in questions(&mut random) {
            let (mine, own) = (answer(&mine, &sql).await, answer(&own, &sql).await);
            match (&mine, &own) {
                // What says nothing of companies is not there at all.
                (Err(DENIED), Err("sql_unknown_table")) => denied += 1,
                (Ok(_), Ok(_)) => answered += 1,
                _ => failed += 1,
            }
            let same = mine == own || (mine, own.as_ref()) == (Err(DENIED), Err(&"sql_unknown_table"));
            assert!(same, "seed {seed}, {companies:?}: {sql}\n{own:?}");
        }
    }
    println!("{answered} answered, {denied} denied, {failed} failed");
    assert!(answered > 200 && denied > 10 && failed > 0, "{answered} answered, {denied} denied, {failed} failed");
}
