//! Refusals of plans in the one shape of all errors.

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use operators::error::{Refusal, excerpt};

use crate::question::refuse::{self, nearest};

/// The error as a refusal. `names` are those that there are.
#[must_use]
pub fn refusal(error: &DataFusionError, names: &[&str]) -> Refusal {
    match error.find_root() {
        DataFusionError::NotImplemented(why) => match why.strip_prefix("unbounded: ") {
            Some(why) => Refusal::new("sql_unbounded", why),
            None => Refusal::new("sql_unsupported", why.lines().next().unwrap_or_default()),
        },
        DataFusionError::Plan(why) if why.starts_with("table '") => {
            let name = why.split('\'').nth(1).unwrap_or_default();
            unknown_name("table", name.strip_prefix("datafusion.public.").unwrap_or(name), names)
        }
        DataFusionError::Plan(why) if why.starts_with("Invalid function") => {
            let name = why.split('\'').nth(1).unwrap_or_default();
            match name {
                "random" | "uuid" | "current_date" | "current_time" | "current_timestamp" | "today" => {
                    Refusal::new("sql_nondeterministic", format!("{name}() is another one each time it is asked"))
                        .hint("now() is the tick; compare it in WHERE")
                }
                _ => refuse::refusal(error, &[]),
            }
        }
        DataFusionError::Plan(why) if why.starts_with("table function '") => {
            Refusal::new("sql_unknown_function", why.lines().next().unwrap_or_default())
        }
        DataFusionError::SchemaError(why, _) => match why.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                let mut known: Vec<&str> = valid_fields.iter().map(|field| field.name()).collect();
                known.sort_unstable();
                known.dedup();
                unknown_name("column", field.name(), &known)
            }
            _ => refuse::refusal(error, &[]),
        },
        _ => refuse::refusal(error, &[]),
    }
}

/// The refusal of a name that is not there, with the nearest that is.
#[must_use]
pub fn unknown_name(what: &'static str, name: &str, names: &[&str]) -> Refusal {
    let code = match what {
        "column" => "sql_unknown_column",
        "table" => "sql_unknown_table",
        "option" => "sql_option_unknown",
        "sink" => "sql_option_invalid",
        _ => "sql_unknown_stream",
    };
    let near = nearest(name, names);
    let name = excerpt(name);
    let message = match near {
        Some(near) => format!("there is no {what} {name}; did you mean {near}?"),
        None if names.is_empty() => format!("there is no {what} {name}"),
        None => format!("there is no {what} {name}; there are {}", names.join(", ")),
    };
    Refusal::new(code, message)
}
