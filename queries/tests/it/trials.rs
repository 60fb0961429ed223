//! The streams that come with the program, and the tests beside them.

use std::path::Path;

use queries::catalog::{Catalog, files};
use queries::trial;

#[test]
fn every_stream_does_what_its_test_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let streams = files(&root.join("streams"), "sql").expect("the folder of streams");
    let mut catalog = Catalog::of_the_main_job();
    let schema = files(&root.join("schema"), "sql").expect("the folder of sources and tables");
    let mut problems = catalog.declare(&schema, &[]);
    problems.extend(catalog.load(&streams));
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{}", told.join("\n"));
    let mut wrong = Vec::new();
    for view in catalog.views() {
        let name = &view.relation.name;
        let (sql, slt) = (root.join(format!("streams/{name}.sql")), root.join(format!("tests/slt/{name}.slt")));
        for path in [sql, slt].iter().filter(|path| !path.is_file()) {
            wrong.push(format!("{} is missing: a stream has the name of its file, and a test", path.display()));
        }
    }
    for file in files(&root.join("tests/slt"), "slt").expect("the folder of tests") {
        wrong.extend(trial::run(&file, &catalog).err().into_iter().flatten().map(|wrong| wrong.to_string()));
    }
    assert!(wrong.is_empty(), "{}\nhaulstream sql test --update writes what is found", wrong.join("\n"));
}

/// Views that are there for their tests only: what a join's options mean.
#[test]
fn how_events_meet_tables_is_as_its_tests_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/meets");
    let mut catalog = Catalog::of_the_main_job();
    let problems = catalog.load(&files(&root, "sql").expect("the folder of views"));
    assert!(problems.is_empty(), "{problems:?}");
    let tests = files(&root, "slt").expect("the folder of tests");
    assert_eq!(tests.len(), catalog.views().count());
    let wrong: Vec<_> = tests.iter().filter_map(|file| trial::run(file, &catalog).err()).flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
}
