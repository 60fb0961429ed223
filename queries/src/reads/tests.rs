//! Questions to relations that change, what must not be asked, and how Postgres' clients ask what there is.

use datafusion::arrow::array::{ArrayRef, AsArray as _, StringArray};
use datafusion::arrow::datatypes::{Field, Int64Type, Schema};

use super::fixture::{Changing, ROOMY, small, speeds, speeds_schema};
use super::*;

fn reads(relations: Arc<Changing>, options: Options) -> Reads {
    Reads::new(relations, options).unwrap()
}

async fn csv(reads: &Reads, sql: &str) -> String {
    reads.query(sql).await.unwrap_or_else(|why| panic!("{sql}: {why}")).to_csv().unwrap()
}

async fn refused(reads: &Reads, sql: &str) -> Refusal {
    match reads.query(sql).await {
        Ok(answer) => panic!("{sql} was answered:\n{}", answer.to_table().unwrap()),
        Err(why) => why,
    }
}

#[tokio::test]
async fn relations_are_read() {
    let reads = reads(small(), ROOMY);
    let sql = "SELECT company_id, max(top_speed) AS top FROM speeds WHERE hour < 12 GROUP BY 1 HAVING count(*) > 1 ORDER BY 1";
    let answer = reads.query(sql).await.unwrap();
    assert_eq!(answer.to_csv().unwrap(), "company_id,top\nc0,5.0\nc1,5.5\n");
    assert_eq!((answer.as_of, answer.truncated), (Some(10), false));
    assert_eq!(
        csv(&reads, "SELECT count(*) AS n FROM public.speeds s JOIN haulstream.streams t ON s.hour = t.rows").await,
        "n\n3\n"
    );
    assert_eq!(
        csv(&reads, "SELECT name FROM streams WHERE rows = 2").await,
        "name\nb\n",
        "found without its namespace"
    );
    assert_eq!(csv(&reads, "WITH speeds AS (SELECT 1 AS x) SELECT * FROM speeds").await, "x\n1\n");
    assert_eq!(reads.query("SELECT 1").await.unwrap().as_of, None);
    assert_eq!(csv(&reads, "SELECT * FROM tariffs").await, "tariff_id,limit_kmh\n");
}

#[tokio::test]
async fn all_tables_of_a_question_are_of_one_tick() {
    let relations = Arc::new(Changing::default());
    let (left, right) = (Name::new(PUBLIC, "l"), Name::new(PUBLIC, "r"));
    for name in [&left, &right] {
        relations.make(name.clone(), Kind::View, &[], speeds_schema());
    }
    relations.set(vec![(&left, vec![speeds(1)]), (&right, vec![speeds(1)])]);
    let reads = reads(relations.clone(), ROOMY);
    let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(0);
    let changer = std::thread::Builder::new().spawn(move || {
        for count in
            (1..).take_while(|_| stopped.try_recv().is_err_and(|why| why == std::sync::mpsc::TryRecvError::Empty))
        {
            relations.set(vec![(&left, vec![speeds(count % 50)]), (&right, vec![speeds(count % 50)])]);
        }
    });
    let mut ticks = std::collections::BTreeSet::new();
    for _ in 0..30 {
        let answer = reads.query("SELECT (SELECT count(*) FROM l) - (SELECT count(*) FROM r) AS n").await.unwrap();
        assert_eq!(answer.batches[0].column(0).as_primitive::<Int64Type>().value(0), 0, "at tick {:?}", answer.as_of);
        ticks.insert(answer.as_of.unwrap());
    }
    drop(stop);
    changer.unwrap().join().unwrap();
    assert!(ticks.len() > 1, "the relations changed meanwhile: {ticks:?}");
}

#[tokio::test]
async fn mistakes_are_named() {
    let reads = reads(small(), ROOMY);
    for (sql, code, part) in [
        (
            "SELECT * FROM speed",
            "sql_unknown_table",
            "no table speed; did you mean speeds? there are haulstream.streams, speeds, tariffs",
        ),
        (
            "SELECT * FROM haulstream.stream",
            "sql_unknown_table",
            "no table haulstream.stream; did you mean haulstream.streams?",
        ),
        ("SELECT * FROM other.speeds", "sql_unknown_table", "speeds"),
        (
            "SELECT top_sped FROM speeds",
            "sql_unknown_column",
            "no column top_sped; did you mean top_speed? there are at, company_id",
        ),
        ("SELECT nope(1)", "sql_unknown_function", "nope"),
        ("SELECT repeat('x', 1000000000)", "sql_unknown_function", "repeat"),
        ("SELECT * FROM '/etc/passwd'", "sql_unknown_table", "passwd"),
        ("SELECT 1; SELECT 2", "sql_syntax", "more than one"),
        ("INSERT INTO speeds VALUES (1)", "sql_statement_not_allowed", "INSERT"),
        ("SET a = 1", "sql_statement_not_allowed", "SET"),
        // Beyond DataFusion; must not become something else.
        ("SELECT ARRAY(SELECT hour FROM speeds)", "sql_", ""),
        ("SELECT 1 INTO t", "sql_statement_not_allowed", ""),
        ("SELECT * FROM speeds WHERE hour = $1", "sql_parameter", "1 parameters, and 0 values"),
    ] {
        let why = refused(&reads, sql).await;
        assert!(why.code.starts_with(code), "{sql}: {why}");
        assert!(why.message.contains(part), "{sql}: {why}");
    }
}

#[tokio::test]
async fn a_view_that_is_dropped_meanwhile_is_missed() {
    let relations = small();
    let reads = reads(relations.clone(), ROOMY);
    relations.forget(&Name::new(PUBLIC, "speeds"));
    assert_eq!(refused(&reads, "SELECT * FROM speeds").await.code, "sql_unknown_table");
    assert_eq!(reads.rows(&Name::new(PUBLIC, "speeds"), 1).await.unwrap_err().code, "sql_unknown_table");
}

#[tokio::test]
async fn memory_rows_and_time_are_limited() {
    let relations = small();
    // One batch larger than what a question may take; a part of it is not.
    relations.set(vec![(&Name::new(PUBLIC, "speeds"), vec![speeds(100_000)])]);
    let with = |question| reads(relations.clone(), Options { question, ..ROOMY });
    let short = with(question::Options { rows_max: 10, ..ROOMY.question });
    let answer = short.query("SELECT * FROM speeds").await.unwrap();
    assert_eq!((answer.rows(), answer.truncated), (10, true));
    let narrow = with(question::Options { memory_bytes_max: 1 << 20, rows_max: 1_000_000, ..ROOMY.question });
    assert_eq!(refused(&narrow, "SELECT * FROM speeds").await.code, "sql_resource_exceeded");
    assert_eq!(narrow.query("SELECT * FROM speeds LIMIT 5").await.unwrap().rows(), 5);
    // The time has to be up before the memory is.
    let brief = with(question::Options { time_ms_max: 200, memory_bytes_max: 8 << 30, ..ROOMY.question });
    let sql = "SELECT count(*) FROM speeds a JOIN speeds b USING (company_id) JOIN speeds c USING (company_id)";
    assert_eq!(refused(&brief, sql).await.code, "sql_time_limit");
    let sql = "SELECT count(*) FROM speeds a, speeds b WHERE a.hour + b.hour = 1";
    assert_eq!(refused(&brief, sql).await.code, "sql_too_complex");
    assert_eq!(csv(&brief, "SELECT count(*) AS n FROM tariffs").await, "n\n0\n", "the threads are free again");
}

#[tokio::test]
async fn questions_wait_for_their_turn() {
    let relations = small();
    relations.set(vec![(&Name::new(PUBLIC, "speeds"), vec![speeds(100_000)])]);
    // The time has to be up before the memory is.
    let question = question::Options { time_ms_max: 300, memory_bytes_max: 8 << 30, ..ROOMY.question };
    let reads = Arc::new(reads(relations, Options { question, questions_max: 1 }));
    let long = "SELECT count(*) FROM speeds a JOIN speeds b USING (company_id) JOIN speeds c USING (company_id)";
    let busy = tokio::spawn({
        let reads = reads.clone();
        async move { reads.query(long).await }
    });
    while reads.turns.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let (first, second) = tokio::join!(busy, reads.query("SELECT 1"));
    assert_eq!(first.unwrap().unwrap_err().code, "sql_time_limit");
    // It waited for as long as it may take itself, or just got its turn.
    if let Err(why) = second {
        assert_eq!(why.code, "sql_time_limit");
    }
    assert_eq!(csv(&reads, "SELECT 1 AS x").await, "x\n1\n");
}

#[tokio::test]
async fn rows_are_found_by_their_key() {
    let reads = reads(small(), ROOMY);
    let name = Name::new(PUBLIC, "speeds");
    let key = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
    let answer = reads.row(&name, &key(&["c3", "13"])).await.unwrap();
    assert_eq!(answer.to_json().unwrap(), "[{\"company_id\":\"c3\",\"hour\":13,\"at\":\"2023-11-14T22:13:33\"}]\n");
    assert_eq!(answer.as_of, Some(10));
    assert_eq!(reads.row(&name, &key(&["c3", "14"])).await.unwrap().rows(), 0);
    for (parts, code) in
        [(vec!["c3"], "key_invalid"), (vec!["c3", "x' OR 1=1"], "key_invalid"), (vec!["a", "1", "2"], "key_invalid")]
    {
        assert_eq!(reads.row(&name, &key(&parts)).await.unwrap_err().code, code, "{parts:?}");
    }
    let answer = reads.rows(&name, 3).await.unwrap();
    assert_eq!((answer.rows(), answer.truncated), (3, true));
    assert!(!reads.rows(&name, 20).await.unwrap().truncated);
    assert_eq!(reads.rows(&name, 0).await.unwrap().rows(), 0);
}

/// What `psql` asks for `\d`, `\d NAME`, `\l`, `\dn` and `\du`, as it does of a server of version 15.
#[tokio::test]
async fn what_psql_asks_is_answered() {
    let reads = reads(small(), ROOMY);
    let listed = |kinds: &str| {
        format!(
            "SELECT n.nspname as \"Schema\", c.relname as \"Name\", CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' END \
             as \"Type\", pg_catalog.pg_get_userbyid(c.relowner) as \"Owner\" FROM pg_catalog.pg_class c \
             LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam \
             WHERE c.relkind IN ({kinds}) AND n.nspname <> 'pg_catalog' AND n.nspname !~ '^pg_toast' \
             AND n.nspname <> 'information_schema' AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 1,2;"
        )
    };
    assert_eq!(
        csv(&reads, &listed("'r','p','v','m','S','f',''")).await,
        "Schema,Name,Type,Owner\nhaulstream,streams,table,haulstream\npublic,speeds,view,haulstream\npublic,tariffs,table,haulstream\n"
    );
    assert_eq!(csv(&reads, &listed("'v',''")).await, "Schema,Name,Type,Owner\npublic,speeds,view,haulstream\n");
    let found = "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n \
                 ON n.oid = c.relnamespace WHERE c.relname OPERATOR(pg_catalog.~) '^(speeds)$' COLLATE pg_catalog.default \
                 AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 2, 3;";
    let found = csv(&reads, found).await;
    let number = found.lines().nth(1).and_then(|line| line.split(',').next()).unwrap();
    let text = include_str!("psql.sql").replace("16385", number);
    let mut told = String::new();
    for sql in text.split(";\n").filter(|sql| !sql.trim().is_empty()) {
        let answer = reads.query(sql).await.unwrap_or_else(|why| panic!("{sql}: {why}"));
        told.push_str(&answer.to_csv().unwrap_or_else(|_| answer.to_table().unwrap()));
    }
    for line in [
        "company_id,text,,true,,,",
        "hour,bigint,,true,",
        "top_speed,double precision,,false,",
        "at,timestamp without time zone,,false",
    ] {
        assert!(told.contains(line), "{line} in\n{told}");
    }
}

#[tokio::test]
async fn what_other_clients_ask_is_answered() {
    let reads = reads(small(), ROOMY);
    for (sql, answer) in [
        ("SELECT 'speeds'::regclass::oid = c.oid AS same FROM pg_class c WHERE relname = 'speeds'", "same\ntrue\n"),
        (
            "SELECT c.oid::regclass AS name FROM pg_class c WHERE relkind = 'r' ORDER BY 1",
            "name\nhaulstream.streams\ntariffs\n",
        ),
        ("SELECT current_schema() AS s, current_database() AS d", "s,d\npublic,haulstream\n"),
        (
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1",
            "table_name\nspeeds\ntariffs\n",
        ),
        (
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'tariffs' ORDER BY 1",
            "column_name\nlimit_kmh\ntariff_id\n",
        ),
        ("SELECT quote_ident('a b') AS q", "q\n\"\"\"a b\"\"\"\n"),
        ("SELECT typname FROM pg_type WHERE oid = 20", "typname\nint8\n"),
        (
            "SELECT a.attname FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
          WHERE a.attrelid = 'tariffs'::regclass AND a.attnum > 0 ORDER BY a.attnum",
            "attname\ntariff_id\nlimit_kmh\n",
        ),
        ("SELECT count(*) AS n FROM pg_catalog.pg_stat_activity", "n\n0\n"),
        ("SELECT tgname FROM pg_catalog.pg_trigger", "tgname\n"),
        ("SELECT viewname FROM pg_views", "viewname\nspeeds\n"),
    ] {
        assert_eq!(csv(&reads, sql).await, answer, "{sql}");
    }
}

fn of(companies: &[&str]) -> Reader {
    let companies = Companies::only(companies.iter().copied());
    Reader { name: Some("somebody".to_owned()), companies, may_change: false }
}

#[tokio::test]
async fn readers_see_their_companies() {
    let all = reads(small(), ROOMY);
    let one = all.seen_by(&of(&["c3"]));
    assert_eq!(csv(&one, "SELECT DISTINCT company_id FROM speeds").await, "company_id\nc3\n");
    assert_eq!(csv(&one, "SELECT count(*) AS n, max(hour) AS h FROM public.speeds").await, "n,h\n2,13\n");
    for sql in [
        "WITH x AS (SELECT * FROM speeds) SELECT count(*) AS n FROM x",
        "SELECT count(*) AS n FROM (SELECT company_id FROM speeds UNION SELECT company_id || 'x' FROM speeds) AS x",
        "SELECT count(*) AS n FROM speeds a WHERE EXISTS (SELECT 1 FROM speeds b WHERE b.company_id = a.company_id)",
        "SELECT count(*) AS n FROM (SELECT 1 FROM speeds a JOIN speeds b ON a.hour = b.hour OR a.hour < b.hour - 900) AS x",
        "SELECT (SELECT count(*) FROM speeds) AS n",
        "SELECT row_number() OVER (ORDER BY hour) AS n FROM speeds ORDER BY n DESC LIMIT 1",
    ] {
        assert_eq!(csv(&one, sql).await, "n\n2\n", "{sql}");
    }
    assert_eq!(csv(&all.seen_by(&Reader::anybody()), "SELECT count(*) AS n FROM speeds").await, "n\n20\n");
    assert_eq!(csv(&all.seen_by(&of(&[])), "SELECT count(*) AS n FROM speeds").await, "n\n0\n");
    // A condition that fails on rows of others is not computed on them.
    let fails = "SELECT 1 / (hour - 4) AS x FROM speeds WHERE 1 / (hour - 4) >= 0 ORDER BY hour LIMIT 1";
    assert_eq!(refused(&all, fails).await.code, "sql_failed");
    assert_eq!(csv(&one, fails).await, "x\n0\n");
    // By parameters, and of the columns alone.
    let statement = statement::query("SELECT hour FROM speeds WHERE company_id <> $1", &PostgreSqlDialect {}).unwrap();
    let values = vec![ScalarValue::from("c1")];
    let told = one.ask(statement, values, Interface::Process).await.unwrap();
    assert_eq!(told.answer.rows(), 2);
    let name = Name::new(PUBLIC, "speeds");
    let key = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
    assert_eq!(one.row(&name, &key(&["c3", "13"])).await.unwrap().rows(), 1);
    assert_eq!(one.row(&name, &key(&["c4", "14"])).await.unwrap().rows(), 0, "as if it were not there");
    assert_eq!(one.rows(&name, 100).await.unwrap().rows(), 2);
}

#[tokio::test]
async fn what_is_not_seen_is_not_there() {
    let relations = small();
    let streams = Name::new(SYSTEM, "streams");
    let told = Schema::new(["name", "sql", "access"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec());
    relations.make(streams.clone(), Kind::System, &["name"], Arc::new(told.clone()));
    let texts = [[Some("speeds"), Some("total")], [Some("SELECT 'c9'"), None], [Some("company_id"), None]];
    let columns = texts.map(|column| Arc::new(StringArray::from(column.to_vec())) as ArrayRef).to_vec();
    relations.set(vec![(&streams, vec![RecordBatch::try_new(Arc::new(told), columns).unwrap()])]);
    let one = reads(relations, ROOMY).seen_by(&of(&["c3"]));
    let listed: Vec<String> = one.list().into_iter().map(|relation| relation.name.name).collect();
    assert_eq!(listed, ["streams", "speeds"]);
    assert_eq!(csv(&one, "SELECT * FROM haulstream.streams").await, "name,access\nspeeds,company_id\n");
    for sql in [
        "SELECT * FROM tariffs",
        "SELECT * FROM nothing",
        "WITH x AS (SELECT * FROM tariffs) SELECT 1 FROM x",
        "SELECT company_id FROM speeds UNION ALL SELECT tariff_id FROM tariffs",
        "SELECT (SELECT max(tariff_id) FROM tariffs) AS x",
        "SELECT 1 FROM speeds WHERE company_id IN (SELECT tariff_id FROM tariffs)",
        "SELECT 1 FROM speeds s JOIN haulstream.tariffs t ON true",
        "SELECT * FROM history.telemetry",
    ] {
        let why = refused(&one, sql).await;
        assert_eq!(why.code, DENIED, "{sql}: {why}");
        assert!(why.message.contains("you may read no table"), "{why}");
        assert!(!why.message.contains("there are haulstream.streams, speeds, tariffs"), "{why}");
    }
    let hidden = refused(&one, "SELECT * FROM tariffs").await.message;
    assert_eq!(hidden.replace("tariffs", "no_such"), refused(&one, "SELECT * FROM no_such").await.message);
    assert_eq!(refused(&one, "SELECT sql FROM haulstream.streams").await.code, "sql_unknown_column");
    for (sql, answer) in [
        ("SELECT relname FROM pg_class ORDER BY 1", "relname\nspeeds\nstreams\n"),
        ("SELECT 'tariffs'::regclass IS NULL AS no", "no\ntrue\n"),
        ("SELECT table_name FROM information_schema.tables WHERE table_name = 'tariffs'", "table_name\n"),
        ("SELECT count(*) AS n FROM information_schema.columns WHERE column_name = 'tariff_id'", "n\n0\n"),
        ("SELECT tablename FROM pg_tables ORDER BY 1", "tablename\nstreams\n"),
    ] {
        assert_eq!(csv(&one, sql).await, answer, "{sql}");
    }
}

/// A question may take as much memory with others' rows beside it as without.
#[tokio::test]
async fn others_take_no_room() {
    let relations = small();
    relations.set(vec![(&Name::new(PUBLIC, "speeds"), vec![speeds(300_000)])]);
    let question = question::Options { memory_bytes_max: 4 << 20, rows_max: 1_000_000, ..ROOMY.question };
    let all = reads(relations, Options { question, ..ROOMY });
    let sql = "SELECT * FROM speeds";
    assert_eq!(refused(&all, sql).await.code, "sql_resource_exceeded");
    assert_eq!(all.seen_by(&of(&["c3"])).query(sql).await.unwrap().rows(), 30_000);
}
