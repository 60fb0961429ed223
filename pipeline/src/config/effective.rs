//! The configuration that is in force, as TOML text.
//!
//! Invariant: secrets are `***`, and what came from the environment is shown as it stands in the file, never filled in.

use std::fmt::Write as _;

use toml::Value;

use super::check::Checked;
use super::problem::Place;
use super::schema;

/// Every option with its value; each that is not at its default says who set it.
#[must_use]
pub fn render(checked: &Checked) -> String {
    let mut out = String::new();
    let sections = schema::sections().iter().flat_map(|section| match section.name.as_str() {
        schema::USER => checked.users.keys().map(|name| (section, format!("users.{name}"))).collect(),
        name => vec![(section, name.to_owned())],
    });
    for (section, name) in sections {
        let _ = writeln!(out, "{}[{name}]", if out.is_empty() { "" } else { "\n" });
        for entry in &section.entries {
            let set = checked.values.get(&format!("{name}.{}", entry.name));
            let value = set.map_or(&entry.default, |set| &set.value);
            let template = set.and_then(|set| set.template.as_deref());
            let shown = match (value, template) {
                (Value::String(text), _) if entry.is_secret() && !text.is_empty() => "\"***\"".to_owned(),
                (_, Some(template)) => Value::String(template.to_owned()).to_string(),
                (value, None) => value.to_string(),
            };
            let by = match set.map(|set| &set.place) {
                Some(Place::File(..)) if template.is_some() => "  # from the file and the environment".to_owned(),
                Some(Place::File(..)) => "  # from the file".to_owned(),
                Some(Place::Flag(flag)) => format!("  # from {flag}"),
                Some(Place::Nowhere) | None => String::new(),
            };
            let _ = writeln!(out, "{} = {shown}{by}", entry.name);
        }
    }
    out
}
