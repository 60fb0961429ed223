//! The queries of TPC-H and Nexmark as views over small tables that change. Catches: a common shape of query that is not
//! planned, or that is planned and wrong under updates.
//!
//! The texts lie in `tests/sets`, adapted in constants (the tables are small) and in orders (total, so that the answer is
//! one). Nexmark's hops and sessions are written as a join with offsets and as window functions.

pub mod nexmark;
mod story;
mod tpch;

use std::collections::BTreeMap;
use std::path::Path;

use crate::harness::{Changing, planned, run, ticks};
use crate::oracle::Oracle;

/// The texts of a set by their names.
fn texts(set: &str) -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sets").join(set);
    let files = std::fs::read_dir(&folder).expect("the folder of the set").map(|file| file.expect("a file").path());
    let named = files.map(|path| {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        (name, std::fs::read_to_string(&path).expect("text"))
    });
    named.collect()
}

/// Each query of the set is compared at every tick on 1, 2 and 4 workers, but those that are refused with these words.
fn check(set: &str, tables: &[Changing], count: usize, refused: &[(&str, &str)]) {
    let texts = texts(set);
    assert_eq!(texts.len(), count, "queries of {set}: {:?}", texts.keys());
    let (mut names, mut queries, mut plans, mut wrong) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (name, sql) in &texts {
        match (planned(tables, sql), refused.iter().find(|(refused, _)| refused == name)) {
            (Ok(plan), None) => {
                names.push(name.as_str());
                queries.push(sql.as_str());
                plans.push(plan);
            }
            (Err(why), Some((_, words))) if why.contains(words) => {}
            (planned, refused) => {
                wrong.push(format!("{name}: {:?}, expected {refused:?}", planned.map(|plan| plan.id)))
            }
        }
    }
    let at = ticks(tables);
    let oracle = Oracle::new(tables);
    let answers: Vec<_> = queries.iter().map(|sql| oracle.answers(sql, &at).expect("an answer")).collect();
    let mut rows = vec![0; names.len()];
    for workers in [1, 2, 4] {
        let outputs = run(tables, &plans, workers);
        for (query, (name, output)) in names.iter().zip(&outputs).enumerate() {
            for (tick, answer) in at.iter().zip(&answers[query]) {
                let found = output.at(&plans[query], *tick);
                // A sum of nothing is a row too, but tells nothing.
                rows[query] += found.iter().filter(|row| *row != "null").count();
                if found != *answer {
                    let faults = output.faults_at(*tick);
                    wrong.push(format!(
                        "{name} at {tick}, {workers} workers\nfound {found:#?}\nwanted {answer:#?}\nfaults {faults:?}"
                    ));
                    break;
                }
            }
        }
    }
    let empty: Vec<_> = names.iter().zip(&rows).filter(|(_, rows)| **rows == 0).collect();
    println!("{set}: {} compared, rows {:?}", names.len(), names.iter().zip(&rows).collect::<Vec<_>>());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(empty.is_empty(), "the data says nothing about {empty:?}");
}

#[test]
fn tpch_queries() {
    check("tpch", &tpch::tables(1), 22, &[]);
}

#[test]
fn nexmark_queries() {
    check("nexmark", &nexmark::tables(1), 19, &[]);
}
