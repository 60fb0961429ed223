//! `haulstream sql why`: what a pipeline answers of one key, as text.
//!
//! Invariant: values come from outside, so no control character of them reaches the terminal.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// The answer as text: the sentence, what is to be known, the rows, and the operators, what is read last.
pub fn shown(told: &Value) -> String {
    let mut out = format!("{}\n", text(&told["says"]));
    for note in told["notes"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "note: {}", text(note));
    }
    for row in told["rows"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "row: {}", values(row));
    }
    if let Some(messages) = told["read"]["messages"].as_u64() {
        let _ = writeln!(out, "read: {messages} messages of the log, up to {}", time(&told["read"]["until"]));
    }
    out.push('\n');
    operator(&told["plan"], 0, &mut out);
    out
}

fn operator(line: &Value, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth);
    let ends = if line["stops"] == true { "   <- here they end" } else { "" };
    let _ = writeln!(out, "{pad}{} {}: {}{ends}", text(&line["operator"]), text(&line["kind"]), text(&line["does"]));
    let mut say = |what: String| {
        let _ = writeln!(out, "{pad}  | {what}");
    };
    let of = line["of"].as_str().map(|of| format!(" with {}", plain(of))).unwrap_or_default();
    let all = line["read"].as_i64().map(|all| format!(" of {all}")).unwrap_or_default();
    let came = line["came"].as_i64().unwrap_or(0);
    let when = |parts: &[(&str, &str)]| {
        let known = parts.iter().filter(|(name, _)| came > 0 && line[name].is_u64());
        known.map(|(name, what)| format!(", {what} {}", time(&line[name]))).collect::<String>()
    };
    let count = match line["now"].as_i64() {
        None => format!("{came}{all}{of}{}", when(&[("first", "the first"), ("last", "the last")])),
        Some(now) if now > 0 => format!("{now}{all} now{of}{}", when(&[("since", "since"), ("last", "the last came")])),
        Some(_) => format!("none{all} now{of}{}", when(&[("first", "the first came"), ("left", "the last left")])),
    };
    say(count);
    for check in line["checks"].as_array().into_iter().flatten() {
        let unknown = check["unknown"].as_i64().filter(|count| *count > 0);
        let unknown = unknown.map(|count| format!(", null for {count}")).unwrap_or_default();
        say(format!("{} of {} pass {}{unknown}", check["passed"], check["of"], text(&check["condition"])));
    }
    for fault in line["faults"].as_array().into_iter().flatten() {
        say(format!("no result for {}: {}: {}", fault["rows"], text(&fault["operator"]), text(&fault["message"])));
    }
    for row in line["rows"].as_array().into_iter().flatten() {
        say(values(row));
    }
    for input in line["inputs"].as_array().into_iter().flatten() {
        operator(input, depth + 1, out);
    }
}

/// Columns of a row with their values.
fn values(row: &Value) -> String {
    let none = Map::new();
    let told =
        row.as_object().unwrap_or(&none).iter().map(|(name, value)| format!("{} = {}", plain(name), text(value)));
    told.collect::<Vec<_>>().join(", ")
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        other => plain(&other.to_string()),
    }
}

fn time(value: &Value) -> String {
    let at = value.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| value.to_string(), |at| at.to_string())
}

/// Without what would move the cursor of a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_shown_as_a_tree_without_control_characters() {
        let read = json!({"operator": "Get", "does": "telemetry", "kind": "events", "of": "driver_id = 'ada'", "read": 40,
            "came": 12, "first": 1_000, "last": 2_000, "rows": [{"driver_id": "a\u{1b}[2Jda"}]});
        let told = json!({
            "says": "not in fast: of 12 rows none passes speed_kmh > 100", "notes": ["a note"], "rows": [],
            "read": {"messages": 40, "until": 5_000},
            "plan": {"operator": "Map", "does": "where …", "kind": "table", "came": 3, "now": 0, "stops": true, "left": 3_000,
                "checks": [{"condition": "speed_kmh > 100", "passed": 0, "unknown": 2, "of": 12}],
                "faults": [{"operator": "Map", "message": "Divide by zero", "rows": 1}], "inputs": [read]},
        });
        let wanted = "\
not in fast: of 12 rows none passes speed_kmh > 100
note: a note
read: 40 messages of the log, up to 1970-01-01T00:00:05Z

Map table: where …   <- here they end
  | none now, the last left 1970-01-01T00:00:03Z
  | 0 of 12 pass speed_kmh > 100, null for 2
  | no result for 1: Map: Divide by zero
  Get events: telemetry
    | 12 of 40 with driver_id = 'ada', the first 1970-01-01T00:00:01Z, the last 1970-01-01T00:00:02Z
    | driver_id = a·[2Jda
";
        assert_eq!(shown(&told), wanted);
    }
}
