//! Settings that are each good and cannot stand together.
//!
//! Invariant: a rule has a name, which the message shows, and is judged on values only: no file, no network.

use super::options::Config;

/// One rule.
pub struct Together {
    /// Its name, shown as the problem's code.
    pub name: &'static str,
    /// The options it looks at; the first of them that the user set is where the message points.
    pub keys: &'static [&'static str],
    /// What is wrong, if something is.
    pub broken: fn(&Config) -> Option<String>,
    /// What to do.
    pub help: &'static str,
}

/// All of them.
pub const RULES: &[Together] = &[
    Together {
        name: "slack_min_above_max",
        keys: &["time.slack_ms_min", "time.slack_ms_max"],
        broken: |c| {
            (c.time.slack_ms_min > c.time.slack_ms_max).then(|| {
                format!(
                    "time.slack_ms_min = {} is above time.slack_ms_max = {}",
                    c.time.slack_ms_min, c.time.slack_ms_max
                )
            })
        },
        help: "raise slack_ms_max or lower slack_ms_min",
    },
    Together {
        name: "topic_used_twice",
        keys: &[
            "topics.enriched",
            "topics.offline",
            "topics.online",
            "topics.vehicle_state",
            "topics.tariff",
            "topics.company",
            "topics.driver",
            "topics.vehicle",
            "topics.dead_letters",
            "topics.telemetry",
        ],
        broken: topic_used_twice,
        help: "each stream needs a topic of its own: what is written to an input would be read again",
    },
];

fn topic_used_twice(c: &Config) -> Option<String> {
    let all = named_topics(c);
    all.iter().enumerate().find_map(|(n, (key, topic))| {
        let (other, _) = all[..n].iter().find(|(_, earlier)| earlier == topic)?;
        Some(format!("{other} and {key} are both \"{topic}\""))
    })
}

fn named_topics(c: &Config) -> Vec<(&'static str, &str)> {
    vec![
        ("topics.telemetry", &c.topics.telemetry),
        ("topics.dead_letters", &c.topics.dead_letters),
        ("topics.vehicle", &c.topics.vehicle),
        ("topics.driver", &c.topics.driver),
        ("topics.company", &c.topics.company),
        ("topics.tariff", &c.topics.tariff),
        ("topics.vehicle_state", &c.topics.vehicle_state),
        ("topics.online", &c.topics.online),
        ("topics.offline", &c.topics.offline),
        ("topics.enriched", &c.topics.enriched),
    ]
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::options::Source;
    use super::super::schema;
    use super::*;

    #[test]
    fn the_defaults_break_no_rule_and_rules_look_at_options_that_exist() {
        let config = Config::deserialize(schema::defaults()).expect("a whole configuration");
        assert_eq!(config.run.source, Source::Log);
        for rule in RULES {
            assert_eq!((rule.broken)(&config), None, "{}", rule.name);
            for key in rule.keys {
                assert!(schema::entry(key).is_some(), "{}: no option {key}", rule.name);
            }
        }
    }
}
