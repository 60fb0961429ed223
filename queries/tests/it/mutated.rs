//! Texts of streams, damaged at random. Catches: a text that brings the parser or the planner down, or is refused without a code.

use std::path::Path;

use queries::catalog::{Catalog, files};

use crate::generate::Random;

/// Words that change what a text means more than a letter does.
const WORDS: [&str; 16] = [
    " NOT ",
    " NULL ",
    "(",
    ")",
    ", ",
    " OVER () ",
    " DISTINCT ",
    " LIMIT -1 ",
    "''",
    "\"",
    "/*",
    " CAST(NULL AS bigint) ",
    " 99999999999999999999 ",
    " interval '-1 month' ",
    " WITH RECURSIVE ",
    " * ",
];

fn damaged(random: &mut Random, text: &str, others: &[String]) -> String {
    let mut text: Vec<char> = text.chars().collect();
    for _ in 0..1 + random.below(4) {
        let at = random.below(text.len() + 1);
        match random.below(5) {
            0 => {
                let end = (at + 1 + random.below(12)).min(text.len());
                text.drain(at.min(end)..end);
            }
            1 => drop(text.splice(at..at, random.of(&WORDS).chars())),
            2 => {
                let other: Vec<char> = random.of(others).chars().collect();
                let from = random.below(other.len());
                let part = &other[from..(from + 1 + random.below(60)).min(other.len())];
                text.splice(at..at, part.iter().copied());
            }
            3 => {
                let odd = ['\0', '\u{202e}', 'ß', ';', '$', '\\', '9', 'e'];
                text.splice(at..at, [*random.of(&odd)]);
            }
            _ => text.truncate(at),
        }
    }
    text.into_iter().collect()
}

#[test]
fn damaged_texts_are_refused_or_understood() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("streams");
    let texts: Vec<String> = files(&directory, "sql").expect("the streams").into_iter().map(|file| file.text).collect();
    let catalog = Catalog::of_the_main_job();
    let mut random = Random::new(7);
    let (mut understood, mut refused) = (0, 0);
    for _ in 0..400 {
        let original = random.of(&texts).clone();
        let text = damaged(&mut random, &original, &texts);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| catalog.plan(&text))) {
            Ok(Ok(_)) => understood += 1,
            Ok(Err(why)) => {
                assert!(!why.code.is_empty() && !why.message.is_empty(), "{text}");
                refused += 1;
            }
            Err(_) => panic!("this text brings it down:\n{text}"),
        }
    }
    assert!(understood > 0 && refused > 200, "{understood} understood, {refused} refused");
}
