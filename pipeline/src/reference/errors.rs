//! The table of error codes: what each means to who meets it, and what to do.
//!
//! Invariant: every code that the program gives out stands here once (a test reads the sources for them); a code that was
//! published is not given another meaning.

use std::fmt::Write as _;

/// An error code.
#[derive(Clone, Copy, Debug)]
pub struct ErrorCode {
    /// The code, stable.
    pub code: &'static str,
    /// Where it is met.
    pub met: Met,
    /// What is wrong, and what to do.
    pub meaning: &'static str,
}

/// Where an error code is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// In answers of the ingestion gate, and in dead letters.
    Records,
    /// In answers of HTTP paths.
    Http,
    /// In messages of the live edge.
    Edge,
    /// In answers to questions in SQL.
    Sql,
    /// In refusals of derived streams.
    Streams,
    /// When the configuration is read or checked.
    Configuration,
    /// When the process starts, or ends by itself.
    Process,
}

impl Met {
    const ALL: [(Met, &'static str); 7] = [
        (Met::Records, "Records: answers of the gate, and dead letters"),
        (Met::Http, "HTTP requests"),
        (Met::Edge, "Live edge: snapshot and WebSocket"),
        (Met::Sql, "Questions: SQL, and the paths of views"),
        (Met::Streams, "Derived streams"),
        (Met::Configuration, "Configuration"),
        (Met::Process, "The process: its start from a checkpoint, and its end"),
    ];
}

const fn error(code: &'static str, met: Met, meaning: &'static str) -> ErrorCode {
    ErrorCode { code, met, meaning }
}

/// All of them.
pub const ERRORS: &[ErrorCode] = &[
    error(
        "field_missing",
        Met::Records,
        "A field that is needed is not there, or is empty. lat and lon come together.",
    ),
    error("field_type", Met::Records, "A field has another type than it should: a text where a number belongs."),
    error("field_out_of_range", Met::Records, "A number is outside of what is possible; the message tells the limits."),
    error("id_invalid", Met::Records, "An id is not 1 to 64 of `A-Z a-z 0-9 . _ : -`."),
    error("position_implausible", Met::Records, "Position 0,0 without a fix: leave lat and lon out."),
    error(
        "event_time_implausible",
        Met::Records,
        "`ts` is too old, or ahead of our clock. It is milliseconds, not seconds.",
    ),
    error("json_invalid", Met::Records, "Not JSON, with line and column."),
    error("json_too_deep", Met::Records, "JSON nested more deeply than allowed."),
    error("json_duplicate_key", Met::Records, "The same key twice in one object."),
    error("utf8_invalid", Met::Records, "Bytes that are no UTF-8, a byte order mark, or half of a surrogate pair."),
    error("key_missing", Met::Records, "A record without a key on a topic that needs one."),
    error("key_mismatch", Met::Records, "The record's key, or the path, names another id than its value."),
    error("unexpected_tombstone", Met::Records, "A null value on a topic of events; only tables have deletes."),
    error(
        "topic_unknown",
        Met::Records,
        "No source or table is declared over the topic of the path; the directory of `sql.schema` declares them.",
    ),
    error("record_too_large", Met::Records, "A record is longer than the limit."),
    error("payload_too_large", Met::Records, "One message of a request is longer than the limit."),
    error(
        "decoder_panic",
        Met::Records,
        "The decoder failed on this record: a fault of ours. Please report it with the record.",
    ),
    error(
        "window_sealed",
        Met::Records,
        "A message came after its window could be corrected: raise `window.retention_ms`.",
    ),
    error("window_ahead", Met::Records, "A message's own time is too far ahead of its arrival for a window."),
    error("body_empty", Met::Http, "A request without a body, or a batch without a message."),
    error("body_incomplete", Met::Http, "The connection ended before the body did."),
    error("body_timeout", Met::Http, "The body took longer to arrive than allowed."),
    error("body_too_large", Met::Http, "The body is longer than the limit: send smaller batches."),
    error("decompressed_too_large", Met::Http, "The body, unpacked, is longer than the limit: send smaller batches."),
    error("encoding_unsupported", Met::Http, "Content-Encoding is none of gzip and zstd."),
    error("gzip_corrupt", Met::Http, "The body says that it is gzip and is not, or is damaged."),
    error("zstd_corrupt", Met::Http, "The body says that it is zstd and is not, or is damaged."),
    error("content_type_unsupported", Met::Http, "Content-Type is missing, or none of those that the message lists."),
    error("batch_too_large", Met::Http, "More messages in one request than allowed."),
    error("batch_rejected", Met::Http, "Every message of the batch was refused; `errors` tells why for each."),
    error("backlog_full", Met::Http, "The log takes no more for now. Send the same again after `Retry-After` seconds."),
    error(
        "log_refused",
        Met::Http,
        "The log refuses the records for good: its operator has to look, see the server's log.",
    ),
    error("uri_too_long", Met::Http, "Path and query are longer than allowed."),
    error("not_found", Met::Http, "Nothing is at this path."),
    error("method_not_allowed", Met::Http, "The path does not take this method; `Allow` says which it takes."),
    error("request_invalid", Met::Http, "The request cannot be understood."),
    error(
        "not_authenticated",
        Met::Http,
        "There are users, and the request does not say which, or not with the right password: send `Authorization: Basic`.",
    ),
    error("internal_error", Met::Http, "A fault of ours; the server's log has it under the same id."),
    error("host_not_allowed", Met::Edge, "The Host header names another host: the edge is not meant to be reached so."),
    error("origin_not_allowed", Met::Edge, "A page of another origin: add it to `edge.origins`."),
    error("upgrade_required", Met::Edge, "A WebSocket handshake is needed at this path."),
    error("subprotocol_unknown", Met::Edge, "No subprotocol that the server speaks was offered."),
    error("connection_limit", Met::Edge, "All connections are taken. Try again after `Retry-After` seconds."),
    error("snapshot_limit", Met::Edge, "Too many snapshots are made at a time. Try again after `Retry-After` seconds."),
    error("shutting_down", Met::Edge, "The server stops. Connect again after a moment."),
    error("ws_bad_message", Met::Edge, "A message that is not as the protocol says. Ten of these end the connection."),
    error("field_unknown", Met::Edge, "A member or field that does not exist; the message suggests one."),
    error("stream_unknown", Met::Edge, "A stream that does not exist; the message suggests one."),
    error("bounds_invalid", Met::Edge, "Bounds are `[minLon,minLat,maxLon,maxLat]`, in range and in that order."),
    error("subscription_limit", Met::Edge, "More subscriptions on one connection than allowed."),
    error("subscription_unknown", Met::Edge, "No subscription of this connection has that id."),
    error("vehicle_limit", Met::Edge, "More vehicles named in one subscription than allowed."),
    error("rate_limited", Met::Edge, "More messages in a minute than allowed; the connection ends."),
    error("sql_syntax", Met::Sql, "Not one SQL statement, with line and column."),
    error("sql_statement_not_allowed", Met::Sql, "Anything but a query: history and live tables are only read."),
    error("sql_unknown_table", Met::Sql, "No such table; the message lists those that there are. Files are no tables."),
    error("sql_unknown_column", Met::Sql, "No such column; the message lists those that there are."),
    error("sql_ambiguous_column", Met::Sql, "Several tables have the column: write TABLE.COLUMN."),
    error("sql_unknown_function", Met::Sql, "No such function, or one that is not allowed here."),
    error("sql_invalid", Met::Sql, "The question makes no sense; the message says why."),
    error("sql_too_complex", Met::Sql, "The text is too long or too deep, or a join would pair too many rows."),
    error("sql_resource_exceeded", Met::Sql, "More memory was needed than `memory_bytes_max` of `history` or `reads`."),
    error("sql_time_limit", Met::Sql, "More time was needed than `time_ms_max` of `history` or `reads`."),
    error("sql_parameter", Met::Sql, "A value of `$1` and so on is missing, or not of its type; or no such setting."),
    error("sql_too_many", Met::Sql, "A Postgres client holds too many prepared statements and portals open."),
    error("key_invalid", Met::Sql, "A key with too few or too many values, or with one that its column cannot have."),
    error("key_unknown", Met::Sql, "The view has no key: its rows cannot be asked for one by one."),
    error("limit_invalid", Met::Sql, "`limit` is not a whole number within the limits."),
    error(
        "access_denied",
        Met::Sql,
        "The user may not read that, or not change streams. Of what a user may not read it is the same whether it is there or not.",
    ),
    error("row_unknown", Met::Sql, "The view has no row with this key."),
    error("sql_failed", Met::Sql, "An expression failed while it was computed: a division by zero, an overflow."),
    error(
        "history_changed",
        Met::Sql,
        "Files of the history were replaced while the question was answered: ask again.",
    ),
    error("history_unreadable", Met::Sql, "No history there, or a damaged file, which the message names."),
    error(
        "name_invalid",
        Met::Streams,
        "The name is not `a-z` followed by up to 62 of `a-z 0-9 _`, a word of SQL, or taken: by the main job or another file.",
    ),
    error(
        "sql_option_unknown",
        Met::Streams,
        "`WITH` has other options than `key`, `retention`, `sinks`, `access`, `as_of`, `horizon`, `correct_for`, `memory` and `time`.",
    ),
    error(
        "sql_option_invalid",
        Met::Streams,
        "A length of time that is none, a sink that there is not, nothing to send, or `as_of` and `correct_for` where no events meet a table.",
    ),
    error(
        "sql_key_missing",
        Met::Streams,
        "Sinks have to know rows again: name the columns that tell them apart as `key`.",
    ),
    error(
        "sql_unbounded",
        Met::Streams,
        "Something would keep every event for ever; the message says what, and what to write instead.",
    ),
    error(
        "sql_unsupported",
        Met::Streams,
        "SQL that cannot be kept up to date; the message says what to write instead.",
    ),
    error(
        "sql_nondeterministic",
        Met::Streams,
        "A function that is another one each time it is asked; `now()` is the tick, and is compared in `WHERE`.",
    ),
    error(
        "sql_type_unknown",
        Met::Streams,
        "A column of a source or table has a type that records cannot be read as; the hint lists those that can.",
    ),
    error("format_unsupported", Met::Streams, "Records of a source or table can be JSON only, for now."),
    error(
        "topic_invalid",
        Met::Streams,
        "A topic of a source or table that no topic can be called, that is one of the process's own, or is declared twice.",
    ),
    error("sql_unknown_stream", Met::Streams, "No derived stream of that name; the message suggests one."),
    error("stream_cycle", Met::Streams, "A view would be made of itself; the message tells the way round."),
    error("stream_refused", Met::Streams, "It reads a stream that is refused itself: mend that one first."),
    error(
        "sql_budget_exceeded",
        Met::Streams,
        "The stream takes more rows, memory or time than it may, and was taken down while it was built; nothing else changed.",
    ),
    error(
        "sql_stream_suspended",
        Met::Streams,
        "The stream, or what it reads, passed a budget and was taken down: replace it or drop it. `sql list` says which.",
    ),
    error("sql_too_many_streams", Met::Streams, "As many streams as the limit allows: drop one first."),
    error(
        "sql_not_caught_up",
        Met::Streams,
        "A new stream has not caught up within `sql.catch_up_ms_max`; the old one answers on.",
    ),
    error("stream_building", Met::Streams, "A stream that is still being built would be read or changed."),
    error(
        "why_busy",
        Met::Streams,
        "Another key is being followed, or a stream is being built from the log: ask again later.",
    ),
    error(
        "why_failed",
        Met::Streams,
        "A key could not be followed: a fault of ours. Please report it with the stream's text.",
    ),
    error("why_stopped", Met::Streams, "Nobody waited any more for the answer to why a key is in a stream."),
    error(
        "why_too_large",
        Met::Streams,
        "Following a key takes more memory or operators than it may: ask for less time.",
    ),
    error("stream_build_stopped", Met::Streams, "A stream was dropped, or the process ended, while it was built."),
    error(
        "stream_past_unreadable",
        Met::Streams,
        "The log cannot be read again for a new stream; the message tells why.",
    ),
    error("stream_without_past", Met::Streams, "What it reads was added without its history, or with less of it."),
    error(
        "history_invalid",
        Met::Streams,
        "How much history a stream is to have is said otherwise than `all`, `none` or `7 days`.",
    ),
    error(
        "sink_not_purged",
        Met::Streams,
        "The stream is dropped, but what it wrote to a sink could not be deleted; the message says where and why.",
    ),
    error(
        "stream_has_dependants",
        Met::Streams,
        "Others read it, and would get another key or other columns, or nothing.",
    ),
    error("syntax", Met::Configuration, "Not TOML, or a key twice."),
    error("unknown_key", Met::Configuration, "No such option; the message suggests one."),
    error(
        "wrong_type",
        Met::Configuration,
        "Another type than the option has: a number's unit is in its name, not its value.",
    ),
    error("out_of_range", Met::Configuration, "A number outside of the option's limits."),
    error("not_a_choice", Met::Configuration, "None of the words that the option takes."),
    error(
        "malformed",
        Met::Configuration,
        "A text that is not what the option takes: an address, a URL, a topic's name.",
    ),
    error("environment", Met::Configuration, "`${NAME}` of a variable that is not set or empty, or is not closed."),
    error(
        "secret_permissions",
        Met::Configuration,
        "Warning: a secret in a file that everybody on the machine can read.",
    ),
    error("secret_empty", Met::Configuration, "Warning: a secret is set, and empty."),
    error("topic_used_twice", Met::Configuration, "Two streams have the same topic."),
    error("slack_min_above_max", Met::Configuration, "`time.slack_ms_min` is above `time.slack_ms_max`."),
    error("tick_above_window", Met::Configuration, "`time.tick_ms` is above `conflate.window_ms`."),
    error("tick_above_emit", Met::Configuration, "`time.tick_ms` is above `window.emit_ms`."),
    error(
        "edge_reachable",
        Met::Configuration,
        "`edge.listen` is not this machine alone, and `edge.allow_remote` is false.",
    ),
    error("user_without_password", Met::Configuration, "A user has no password, or an empty one."),
    error("user_without_companies", Met::Configuration, "A user says neither whose rows are seen nor that all are."),
    error(
        "user_changes_unseen",
        Met::Configuration,
        "A user may change streams and sees the rows of some companies: a stream shows its declarer those of all.",
    ),
    error("user_misnamed", Met::Configuration, "The name of a section of users is none that a user can have."),
    error("users_too_many", Met::Configuration, "More users than there can be."),
    error(
        "password_and_users",
        Met::Configuration,
        "`reads.password` lets everybody see everything, and users would be asked for their own.",
    ),
    error(
        "reads_reachable",
        Met::Configuration,
        "`reads.postgres_listen` is not this machine alone, and there are neither users nor `reads.password`.",
    ),
    error(
        "reads_unusable",
        Met::Configuration,
        "Live tables cannot be read: an address is taken, or threads cannot be started.",
    ),
    error("edge_connections", Met::Configuration, "`edge.connections_max` is above `edge.http_connections_max`."),
    error("body_above_held", Met::Configuration, "`ingest.body_bytes_max` is above `ingest.held_bytes_max`."),
    error("live_retry", Met::Configuration, "`retry_ms_min` of `sinks.live` is above its `retry_ms_max`."),
    error("history_retry", Met::Configuration, "`retry_ms_min` of `sinks.history` is above its `retry_ms_max`."),
    error("live_step_above_queue", Met::Configuration, "`bytes_max` of `sinks.live` is above its `queue_bytes_max`."),
    error(
        "history_step_above_queue",
        Met::Configuration,
        "`bytes_max` of `sinks.history` is above its `queue_bytes_max`.",
    ),
    error(
        "record_above_producer",
        Met::Configuration,
        "`kafka_sink.record_bytes_max` is above `kafka.produce_bytes_max`.",
    ),
    error("redis_unusable", Met::Configuration, "Redis is enabled, and what is configured cannot work; told why."),
    error(
        "clickhouse_unusable",
        Met::Configuration,
        "ClickHouse is enabled, and what is configured cannot work; told why.",
    ),
    error("dependency_unavailable", Met::Configuration, "`check --connect`: a service does not answer; it may later."),
    error(
        "auth_failed",
        Met::Configuration,
        "`check --connect`: a service does not let us in: user or password is wrong.",
    ),
    error(
        "checkpoint_log",
        Met::Process,
        "The checkpoint is of another log or cluster: name the one it was made from, or another `checkpoint.directory`.",
    ),
    error(
        "checkpoint_topic",
        Met::Process,
        "A topic was deleted and made anew, so its offsets mean other records: choose another `checkpoint.directory`.",
    ),
    error("checkpoint_partition", Met::Process, "A partition that was read is gone: was its topic made anew?"),
    error(
        "checkpoint_lost",
        Met::Process,
        "The log dropped records before they were read; the message tells which and how many. Restore the log, or choose another \
         `checkpoint.directory` to go on with what is left.",
    ),
    error(
        "checkpoint_ahead",
        Met::Process,
        "The log ends before what was read of it: it lost records, or is another one.",
    ),
    error(
        "checkpoint_rules",
        Met::Process,
        "State was made with other settings (such as those of `window`) or by another version: set them back, or choose another \
         `checkpoint.directory` to make it anew from the log.",
    ),
    error(
        "dataflow_stuck",
        Met::Process,
        "A worker has not come back from its operators within `run.stuck_ms_max`, and the process has ended: look for a derived stream \
         whose query takes too much.",
    ),
    error(
        "frontier_stands",
        Met::Process,
        "Rows wait, no sink holds them, and the frontier has stood still for `run.stuck_ms_max`: the process has ended. This is a bug.",
    ),
];

/// The page.
pub fn page() -> String {
    let mut out = "# Error codes\n\n\
        An error over HTTP is one JSON object: `code`, `message` (what is wrong, with the offending value cut short), `where` \
        (interface, path, and the field or `line:column`), `hint` (what to do) and `id`, which the server's log has too. The \
        messages of the live edge have `code`, `message`, `field` and `hint`. Codes are stable, messages are not.\n"
        .to_owned();
    for (met, title) in Met::ALL {
        let _ = write!(out, "\n## {title}\n\n| code | meaning |\n| --- | --- |\n");
        for error in ERRORS.iter().filter(|error| error.met == met) {
            let _ = writeln!(out, "| `{}` | {} |", error.code, error.meaning);
        }
    }
    out
}
