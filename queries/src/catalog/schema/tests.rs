//! Declarations of sources and tables: what they come to, and what of them is refused, where and with what to do.

use proptest::prelude::*;

use super::*;

const RECEIPTS: &str =
    "CREATE SOURCE receipts (till TEXT, receipt_id TEXT NOT NULL, \"shopId\" BIGINT, total DECIMAL(12, 2),
    paid_at TIMESTAMP NOT NULL, day DATE, weight DOUBLE PRECISION, items INT NULL, cash BOOLEAN)
  FROM KAFKA 'shop.receipts' FORMAT JSON KEY (\"shopId\", receipt_id) EVENT TIME paid_at;";
const CARDS: &str = "CREATE TABLE cards (card_id TEXT, owner TEXT) FROM LOG 'shop.cards' FORMAT JSON KEY (card_id)";

fn file(text: &str) -> File {
    File { name: "f.sql".into(), text: text.to_owned() }
}

fn refused(text: &str) -> String {
    let problems = Catalog::of_the_main_job().declare(&[file(text)], &[("telemetry.raw", "that of telemetry")]);
    let [problem] = problems.as_slice() else { panic!("{text}\n{problems:?}") };
    problem.to_string()
}

#[test]
fn a_declaration_is_a_relation() {
    let mut catalog = Catalog::of_the_main_job();
    assert_eq!(catalog.declare(&[file(RECEIPTS), file(CARDS)], &[]), []);
    let all: Vec<&Declared> = catalog.declared().collect();
    let [cards, receipts] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((cards.table, cards.log, cards.topic.as_str(), cards.time), (true, Log::Any, "shop.cards", None));
    assert_eq!((receipts.table, receipts.log, receipts.keys, receipts.time), (false, Log::Kafka, 2, Some(4)));
    let columns: Vec<(&str, Type, bool)> =
        receipts.columns.iter().map(|column| (column.name.as_str(), column.kind, column.required)).collect();
    // Those of the key are first, and needed.
    assert_eq!(
        columns,
        [
            ("shopId", Type::BigInt, true),
            ("receipt_id", Type::Text, true),
            ("till", Type::Text, false),
            ("total", Type::Decimal(12, 2), false),
            ("paid_at", Type::Timestamp, true),
            ("day", Type::Date, false),
            ("weight", Type::Double, false),
            ("items", Type::Int, false),
            ("cash", Type::Boolean, false),
        ]
    );
    let relation = catalog.relation("receipts").expect("it can be read");
    assert_eq!(
        (relation.kind, relation.key.as_slice()),
        (Kind::Events, &["shopId".to_owned(), "receipt_id".to_owned()][..])
    );
    assert_eq!(relation.schema.fields().last().map(|field| field.name().as_str()), Some(ARRIVED));
    assert_eq!(
        catalog.relation("cards").map(|cards| (cards.kind, cards.schema.fields().len())),
        Some((Kind::Table, 2))
    );
    assert_eq!(
        catalog.describe_declared(receipts).lines().take(3).collect::<Vec<_>>(),
        [
            "receipts: events of topic shop.receipts",
            "  columns   shopId      bigint, not null",
            "            receipt_id  text, not null"
        ]
    );
}

#[test]
fn streams_read_what_is_declared() {
    let mut catalog = Catalog::of_the_main_job();
    assert_eq!(catalog.declare(&[file(RECEIPTS), file(CARDS)], &[]), []);
    for text in [
        "CREATE MATERIALIZED VIEW a WITH (retention = '1 hour') AS SELECT date_bin(interval '5 minutes', paid_at) AS w,
           sum(total) AS total FROM receipts GROUP BY 1",
        "CREATE MATERIALIZED VIEW b AS SELECT r.receipt_id, c.owner FROM receipts r JOIN cards c ON c.card_id = r.till",
        "CREATE MATERIALIZED VIEW c AS SELECT c.owner, v.plate FROM cards c JOIN vehicles v ON v.vehicle_id = c.card_id",
        "CREATE MATERIALIZED VIEW d AS SELECT receipt_id FROM receipts WHERE arrived_at > now() - interval '1 hour'",
        // The event's time is what was declared, whatever it is called.
        "CREATE MATERIALIZED VIEW e WITH (as_of = 'event time', horizon = '1 hour') AS
           SELECT r.receipt_id, c.owner FROM receipts r JOIN cards c ON c.card_id = r.till",
    ] {
        let view = catalog.plan(text).unwrap_or_else(|why| panic!("{text}\n{why}"));
        catalog.add(view).expect("a new name");
    }
    let why = catalog.plan("CREATE MATERIALIZED VIEW f AS SELECT total, count(*) AS n FROM receipts GROUP BY total");
    assert_eq!(why.expect_err("nothing bounds it").code, "sql_unbounded");
    let why = catalog.plan("CREATE VIEW cards AS SELECT 1 AS one").expect_err("the name is taken");
    assert_eq!((why.code, why.message.as_str()), ("name_invalid", "cards is declared over a topic"));
    let without = RECEIPTS.replace(" EVENT TIME paid_at", "").replace("receipts", "plain");
    assert_eq!(catalog.declare(&[file(&without)], &[]), []);
    let why = catalog.plan(
        "CREATE MATERIALIZED VIEW g WITH (as_of = 'event time', horizon = '1 hour') AS
           SELECT r.receipt_id, c.owner FROM plain r JOIN cards c ON c.card_id = r.till",
    );
    assert!(why.expect_err("it has no time").message.contains("EVENT TIME of a source"));
}

#[test]
fn refusals_say_where_and_what_to_do() {
    let with = |columns: &str, rest: &str| format!("CREATE SOURCE r ({columns})\nFROM LOG 't'\nFORMAT JSON {rest}");
    for (text, told) in [
        (with("a TEXT", "KEY (b)"), "f.sql:3:18: sql_unknown_column: there is no column b"),
        (with("receipt TEXT", "KEY (reciept)"), "did you mean receipt?"),
        (with("a TEXT, a INT", "KEY (a)"), "f.sql:1:26: name_invalid: there is a column a already"),
        (with("a TEXT", "KEY (a, a)"), "f.sql:3:21: sql_option_invalid: a is in the key twice"),
        (with("a DOUBLE", "KEY (a)"), "f.sql:3:18: sql_option_invalid: a cannot be in a key"),
        (with("a TEXT", "KEY ()"), "f.sql:3:18: sql_syntax: expected a column of the key, found )"),
        (with("a TEXT", ""), "f.sql: sql_syntax: expected KEY, found the end"),
        (with("a UUID", "KEY (a)"), "f.sql:1:20: sql_type_unknown: column a has a type"),
        (with("a TEXT[]", "KEY (a)"), "sql_type_unknown"),
        (with("a DECIMAL(39, 2)", "KEY (a)"), "sql_type_unknown"),
        (with("a DECIMAL(4, 5)", "KEY (a)"), "sql_type_unknown"),
        (with("a TIMESTAMP WITH TIME ZONE", "KEY (a)"), "sql_type_unknown"),
        (
            with("a TEXT PRIMARY KEY", "KEY (a)"),
            "f.sql:1:25: sql_syntax: expected NOT NULL, a comma, or the end of the columns, found PRIMARY",
        ),
        (with("a TEXT,", "KEY (a)"), "expected the name of a column, found )"),
        (with("", "KEY (a)"), "expected the name of a column, found )"),
        (
            with("arrived_at TIMESTAMP", "KEY (arrived_at)"),
            "f.sql:1:18: name_invalid: column arrived_at is called as one of ours",
        ),
        (with("__tick INT", "KEY (__tick)"), "name_invalid"),
        (with("\"a b\" INT", "KEY (\"a b\")"), "f.sql:1:18: name_invalid: \"a b\" is not a letter"),
        (with("a TEXT", "KEY (a) EVENT TIME a"), "f.sql:3:32: sql_option_invalid: a is no TIMESTAMP"),
        (with("a TEXT", "KEY (a) EVENT TIME b"), "f.sql:3:32: sql_unknown_column"),
        (with("a TEXT, n INT", "KEY (a) ACCESS n"), "f.sql:3:28: sql_option_invalid: n is no TEXT"),
        (with("a TEXT", "KEY (a) ACCESS b"), "f.sql:3:28: sql_unknown_column"),
        (with("a TEXT", "KEY (a) ACCESS a EVENT TIME a"), "f.sql:3:30: sql_syntax"),
        (
            with("a TEXT", "KEY (a) WITH (x = 'y')"),
            "f.sql:3:21: sql_syntax: expected the end of the statement, found WITH",
        ),
        (with("a TEXT", "KEY (a); SELECT 1"), "f.sql:3:22: sql_syntax: there is more than one statement"),
        (
            "CREATE TABLE r (a TEXT, b TIMESTAMP) FROM LOG 't' FORMAT JSON KEY (a) EVENT TIME b".into(),
            "EVENT TIME is of events",
        ),
        (
            "CREATE SOURCE r (a TEXT) FROM LOG 't' FORMAT AVRO KEY (a)".into(),
            "f.sql:1:46: format_unsupported: FORMAT AVRO is not there yet",
        ),
        ("CREATE SOURCE r (a TEXT) FROM LOG 't' FORMAT PROTOBUF KEY (a)".into(), "format_unsupported"),
        (
            "CREATE SOURCE r (a TEXT) FROM LOG 't' FORMAT XML KEY (a)".into(),
            "expected JSON or PROTOBUF or AVRO, found XML",
        ),
        (
            "CREATE SOURCE r (a TEXT) FROM '/etc/passwd' FORMAT JSON KEY (a)".into(),
            "f.sql:1:31: sql_syntax: expected KAFKA or LOG",
        ),
        ("CREATE SOURCE r (a TEXT) FROM LOG '/etc/passwd' FORMAT JSON KEY (a)".into(), "f.sql:1:35: topic_invalid"),
        ("CREATE SOURCE r (a TEXT) FROM LOG '' FORMAT JSON KEY (a)".into(), "topic_invalid"),
        (
            "CREATE SOURCE r (a TEXT) FROM LOG 'telemetry.raw' FORMAT JSON KEY (a)".into(),
            "f.sql:1:35: topic_invalid: topic telemetry.raw is that of telemetry",
        ),
        (
            "CREATE SOURCE vehicles (a TEXT) FROM LOG 't' FORMAT JSON KEY (a)".into(),
            "f.sql:1:15: name_invalid: vehicles is a stream of the main job",
        ),
        ("CREATE SOURCE \"; DROP\" (a TEXT) FROM LOG 't' FORMAT JSON KEY (a)".into(), "f.sql:1:15: name_invalid"),
        ("CREATE SOURCE a.b (a TEXT) FROM LOG 't' FORMAT JSON KEY (a)".into(), "name_invalid"),
        ("CREATE SOURCE r (a TEXT) FROM LOG 't FORMAT JSON KEY (a)".into(), "sql_syntax"),
        ("CREATE TABLE r AS SELECT 1".into(), "expected the columns in parentheses, found AS"),
        (
            "CREATE VIEW r AS SELECT 1".into(),
            "f.sql:1:8: sql_statement_not_allowed: expected SOURCE or TABLE, found VIEW",
        ),
        ("COPY x TO '/tmp/x'".into(), "f.sql:1:1: sql_statement_not_allowed: expected CREATE, found COPY"),
        (String::new(), "there is no statement"),
        ("-- nothing".into(), "there is no statement"),
        ("x".repeat(1 << 20), "sql_too_complex"),
        (
            with(&(0..200).map(|n| format!("c{n} INT")).collect::<Vec<_>>().join(", "), "KEY (c0)"),
            "there are at most 100 columns",
        ),
    ] {
        let found = refused(&text);
        assert!(found.contains(told), "{text}\n{told}\nnot in\n{found}");
    }
}

#[test]
fn names_and_topics_are_declared_once() {
    let mut catalog = Catalog::of_the_main_job();
    let other = CARDS.replace("shop.cards", "other");
    let second = CARDS.replace("cards (", "more_cards (");
    let told: Vec<String> =
        catalog.declare(&[file(CARDS), file(&other), file(&second)], &[]).iter().map(ToString::to_string).collect();
    assert!(told[0].starts_with("f.sql:1:14: name_invalid: there is a cards already"), "{told:?}");
    assert!(told[1].contains("topic_invalid: topic shop.cards is declared already"), "{told:?}");
    assert_eq!(told.len(), 2);
    let many: Vec<File> = (0..DECLARED_MAX).map(|n| file(&CARDS.replace("cards", &format!("c{n}")))).collect();
    let told = catalog.declare(&many, &[]);
    assert_eq!((told.len(), told[0].why.code), (1, "sql_too_many_streams"));
}

#[test]
fn a_declaration_is_no_stream() {
    assert!(is_schema(RECEIPTS) && is_schema(CARDS) && !is_schema("CREATE TABLE a AS SELECT 1") && !is_schema(""));
    assert_eq!((declares(CARDS).as_deref(), declares("CREATE SOURCE x")), (Some("cards"), None));
    let why = Catalog::of_the_main_job().plan(CARDS).expect_err("it is none");
    assert_eq!(why.code, "sql_statement_not_allowed");
    assert!(why.hint.is_some_and(|hint| hint.contains("sql.schema")));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any text is a declaration or refused, within the text.
    #[test]
    fn any_text_is_a_declaration_or_refused(edits in proptest::collection::vec((any::<prop::sample::Index>(), "\\PC?", any::<bool>()), 0..8)) {
        let mut text: Vec<char> = RECEIPTS.chars().collect();
        for (place, with, insert) in edits {
            let place = place.index(text.len());
            text.splice(place..place + usize::from(!insert), with.chars());
        }
        let text: String = text.into_iter().collect();
        let _ = (is_schema(&text), declares(&text));
        for problem in Catalog::of_the_main_job().declare(&[file(&text)], &[]) {
            prop_assert!(!problem.to_string().is_empty());
        }
    }
}
