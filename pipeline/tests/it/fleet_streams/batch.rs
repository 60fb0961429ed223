//! A stream's own SELECT as a plain question over all events and tables.

/// What only streams can be made with.
const OF_STREAMS: [&str; 5] = [" hop(", " session(", " stops(", " trips(", " silence("];

/// A stream of the project.
pub struct Stream {
    pub name: String,
    /// Its SELECT, in which time does not pass: all events of the test are younger than any bound of it.
    select: String,
    /// Until when a row of events counts: a window leaves that long after its time.
    until: Option<String>,
}

impl Stream {
    /// From the text of its file.
    pub fn new(name: &str, text: &str) -> Stream {
        let select = text.split_once("\nAS\n").expect("a declaration has AS on a line of its own").1;
        let select = select.trim().trim_end_matches(';').replace("now()", "arrived_at");
        let retention = text.split_once("retention = '").and_then(|(_, rest)| rest.split_once('\''));
        let window = window(&select);
        let until = retention.zip(window).map(|((retention, _), window)| format!("{window} + interval '{retention}'"));
        Stream { name: name.to_owned(), select, until }
    }

    /// Whether its SELECT can be asked too. One with these functions cannot: they have oracles in the tests of `queries`.
    pub fn is_a_question(&self) -> bool {
        !OF_STREAMS.iter().any(|function| self.select.contains(function))
    }

    /// A question for its columns and their types, a line each.
    pub fn columns(&self) -> String {
        format!(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'public' AND \
             table_name = '{}' ORDER BY ordinal_position",
            self.name
        )
    }

    /// A question for the rows that it lacks, those that it should not have, and how many it has, all as of one tick.
    pub fn question(&self, columns: &str) -> String {
        let column = |line: &str| {
            let (name, kind) = line.split_once('|').expect("a name and a type");
            // Sums of numbers in another order differ in the last places.
            if kind == "Float64" { format!("round({name}, 6) AS {name}") } else { name.to_owned() }
        };
        let columns: Vec<String> = columns.lines().map(column).collect();
        let columns = columns.join(", ");
        let open = match &self.until {
            None => String::new(),
            Some(until) => format!(" WHERE {until} > (SELECT max(as_of) FROM haulstream.streams)"),
        };
        let name = &self.name;
        format!(
            "WITH telemetry AS (SELECT * FROM all_telemetry), vehicle_events AS (SELECT * FROM all_vehicle_events), \
             telemetry_enriched AS (SELECT * FROM all_telemetry_enriched{open}), \
             wanted AS (SELECT {columns} FROM ({})), held AS (SELECT {columns} FROM {name}) \
             SELECT (SELECT count(*) FROM (SELECT * FROM wanted EXCEPT SELECT * FROM held)) AS missing, \
             (SELECT count(*) FROM (SELECT * FROM held EXCEPT SELECT * FROM wanted)) AS beyond, \
             (SELECT count(*) FROM held) AS there",
            self.select
        )
    }
}

/// The window that an event falls into, by the text of the stream; none if it has no windows. Days and hours of a time zone
/// that is not known here are those of the time itself: they end long after the test.
fn window(select: &str) -> Option<&'static str> {
    let windows = [
        ("interval '5 minutes', e.ts", "date_bin(interval '5 minutes', ts)"),
        ("interval '1 hour', ts", "date_bin(interval '1 hour', ts)"),
        ("interval '1 minute', ts", "date_bin(interval '1 minute', ts)"),
        ("date_trunc('day', local_time", "date_trunc('day', ts)"),
        ("date_trunc('hour', local_time", "date_trunc('hour', ts)"),
    ];
    windows.iter().find(|(part, _)| select.contains(part)).map(|(_, window)| *window)
}
