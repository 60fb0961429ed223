//! Small tables of the schema of TPC-H that change: most keys are there from the start, and rows of all tables come, change
//! and go, also those that others point to.

use datafusion::common::ScalarValue;
use operators::time::Tick;

use super::story::{Story, date, int, money, text};
use crate::generate::Random;
use crate::harness::Changing;

/// 1994-01-01 in days since 1970.
const START: i64 = 8_766;
const REGIONS: [&str; 3] = ["EUROPE", "AMERICA", "ASIA"];
const NATIONS: [(&str, i64); 6] =
    [("FRANCE", 0), ("GERMANY", 0), ("BRAZIL", 1), ("CANADA", 1), ("JAPAN", 2), ("CHINA", 2)];
const TYPES: [&str; 5] = [
    "ECONOMY ANODIZED STEEL",
    "STANDARD PLATED BRASS",
    "PROMO BRUSHED BRASS",
    "MEDIUM POLISHED COPPER",
    "PROMO PLATED TIN",
];

/// A table, its columns, the keys it can have, how many of them change at a tick, and the row of a key.
struct Table {
    name: &'static str,
    columns: &'static str,
    keys: Vec<i64>,
    changes: usize,
    row: fn(&mut Random, i64) -> Vec<ScalarValue>,
}

/// The eight tables with changes at 11 ticks.
pub fn tables(seed: u64) -> Vec<Changing> {
    let mut random = Random::new(seed);
    let tables = schema().into_iter();
    tables.map(|table| told(&mut random, &table)).collect()
}

fn told(random: &mut Random, table: &Table) -> Changing {
    let mut story = Story::new(table.name, table.columns);
    for round in 0..11u64 {
        let tick: Tick = 1_000 + round * 10;
        for key in &table.keys {
            if round == 0 && random.chance(85) {
                story.put(tick, *key, (table.row)(random, *key));
            }
        }
        for _ in 0..if round == 0 { 0 } else { random.below(table.changes + 1) } {
            let key = *random.of(&table.keys);
            if story.has(key) && random.chance(40) {
                story.remove(tick, key);
            } else {
                story.put(tick, key, (table.row)(random, key));
            }
        }
    }
    story.told()
}

fn schema() -> Vec<Table> {
    let table = |name, columns, keys: Vec<i64>, changes, row| Table { name, columns, keys, changes, row };
    let pairs = (0..14).flat_map(|part| [part * 100 + part % 7, part * 100 + (part + 3) % 7]).collect();
    let lines = (0..50).flat_map(|order| (0..1 + order % 4).map(move |line| order * 10 + line)).collect();
    vec![
        table("region", "r_regionkey int, r_name text, r_comment text", (0..3).collect(), 1, |_, key| {
            vec![int(key), text(REGIONS[key as usize]), text("")]
        }),
        table(
            "nation",
            "n_nationkey int, n_name text, n_regionkey int, n_comment text",
            (0..6).collect(),
            1,
            |_, key| {
                let (name, region) = NATIONS[key as usize];
                vec![int(key), text(name), int(region), text("")]
            },
        ),
        table(
            "supplier",
            "s_suppkey int, s_name text, s_address text, s_nationkey int, s_phone text, s_acctbal money, s_comment text",
            (0..7).collect(),
            2,
            supplier,
        ),
        table(
            "customer",
            "c_custkey int, c_name text, c_address text, c_nationkey int, c_phone text, c_acctbal money, c_mktsegment \
             text, c_comment text",
            (0..16).collect(),
            3,
            customer,
        ),
        table(
            "part",
            "p_partkey int, p_name text, p_mfgr text, p_brand text, p_type text, p_size int, p_container text, \
             p_retailprice money, p_comment text",
            (0..14).collect(),
            3,
            part,
        ),
        table(
            "partsupp",
            "ps_partkey int, ps_suppkey int, ps_availqty int, ps_supplycost money, ps_comment text",
            pairs,
            4,
            |random, key| {
                let cost = money(100 + random.below(9_000) as i64);
                vec![int(key / 100), int(key % 100), int(random.below(90) as i64), cost, text("")]
            },
        ),
        table(
            "orders",
            "o_orderkey int, o_custkey int, o_orderstatus text, o_totalprice money, o_orderdate date, o_orderpriority \
             text, o_clerk text, o_shippriority int, o_comment text",
            (0..50).collect(),
            8,
            order,
        ),
        table(
            "lineitem",
            "l_orderkey int, l_partkey int, l_suppkey int, l_linenumber int, l_quantity money, l_extendedprice money, \
             l_discount money, l_tax money, l_returnflag text, l_linestatus text, l_shipdate date, l_commitdate date, \
             l_receiptdate date, l_shipinstruct text, l_shipmode text, l_comment text",
            lines,
            15,
            line,
        ),
    ]
}

fn phone(random: &mut Random) -> ScalarValue {
    text(format!("{}-{}", random.of(&["13", "31", "23", "44"]), random.below(1_000)))
}

fn supplier(random: &mut Random, key: i64) -> Vec<ScalarValue> {
    let comment = *random.of(&["", "", "quick", "a Customer of many Complaints"]);
    vec![
        int(key),
        text(format!("Supplier#{key}")),
        text(format!("Street {}", random.below(9))),
        int(random.below(6) as i64),
        phone(random),
        money(random.below(200_000) as i64 - 50_000),
        text(comment),
    ]
}

fn customer(random: &mut Random, key: i64) -> Vec<ScalarValue> {
    vec![
        int(key),
        text(format!("Customer#{key}")),
        text(format!("Road {}", random.below(9))),
        int(random.below(6) as i64),
        phone(random),
        money(random.below(200_000) as i64 - 50_000),
        text(*random.of(&["BUILDING", "AUTOMOBILE"])),
        text(""),
    ]
}

fn part(random: &mut Random, key: i64) -> Vec<ScalarValue> {
    let brand = random.below(3);
    vec![
        int(key),
        text(*random.of(&["forest green", "light green", "forest brown", "pale blue"])),
        text("Manufacturer#1"),
        text(["Brand#12", "Brand#23", "Brand#34"][brand]),
        text(*random.of(&TYPES)),
        int(*random.of(&[3, 15, 15, 23])),
        text(["SM CASE", "MED BOX", "LG BOX"][if random.chance(80) { brand } else { 0 }]),
        money(90_000 + key * 100),
        text(""),
    ]
}

fn order(random: &mut Random, key: i64) -> Vec<ScalarValue> {
    vec![
        int(key),
        int(random.below(11) as i64),
        text(*random.of(&["F", "F", "O"])),
        money(1_000 + random.below(5_000_000) as i64),
        date(START + random.below(600) as i64),
        text(*random.of(&["1-URGENT", "2-HIGH", "5-LOW"])),
        text("Clerk#1"),
        int(0),
        text(*random.of(&["", "some special or other requests", "slow"])),
    ]
}

fn line(random: &mut Random, key: i64) -> Vec<ScalarValue> {
    let part = random.below(14) as i64;
    let supplier = *random.of(&[part % 7, (part + 3) % 7]);
    let quantity = 1 + random.below(50) as i64;
    let shipped = START + random.below(660) as i64;
    vec![
        int(key / 10),
        int(part),
        int(supplier),
        int(key % 10),
        money(quantity * 100),
        money(quantity * (90_000 + part * 100)),
        money(random.below(11) as i64),
        money(random.below(9) as i64),
        text(*random.of(&["A", "N", "R"])),
        text(*random.of(&["O", "F"])),
        date(shipped),
        date(shipped + random.below(60) as i64 - 20),
        date(shipped + 1 + random.below(30) as i64),
        text(*random.of(&["DELIVER IN PERSON", "DELIVER IN PERSON", "NONE"])),
        text(*random.of(&["AIR", "REG AIR", "MAIL", "SHIP"])),
        text(""),
    ]
}
