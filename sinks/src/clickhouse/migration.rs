//! The tables, made by numbered migrations, each a file of one statement that may be repeated.
//!
//! Invariant: a migration that was applied anywhere is never edited; what changes later is a new one. A database of which
//! this does not hold, or that a newer program has changed, is refused before a row is written.

use ::clickhouse::Client;
use ::clickhouse::error::Error;
use operators::batch::fnv1a;
use tracing::info;

/// A numbered change of the schema.
#[derive(Debug)]
pub(super) struct Migration {
    number: u32,
    name: &'static str,
    sql: &'static str,
}

macro_rules! migration {
    ($number:literal, $name:literal) => {
        Migration { number: $number, name: $name, sql: include_str!(concat!("migrations/", $name, ".sql")) }
    };
}

const MIGRATIONS: [Migration; 4] = [
    migration!(1, "0001_telemetry_history"),
    migration!(2, "0002_vehicle_events"),
    migration!(3, "0003_company_minute"),
    migration!(4, "0004_vehicle_links"),
];

const LEDGER: &str = "CREATE TABLE IF NOT EXISTS schema_migrations
(
    number UInt32, name String, checksum String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = MergeTree ORDER BY number";

/// Why the tables could not be made.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server's error, and what was tried.
    Server(String, Error),
    /// The database is not one that this program can write to.
    Foreign(String),
}

impl Migration {
    /// FNV-1a of the file, the same in every build.
    fn checksum(&self) -> String {
        format!("{:016x}", fnv1a(&[self.sql.as_bytes()]))
    }
}

/// Brings the client's database up to date.
pub(super) async fn run(client: &Client) -> Result<(), Failure> {
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        move |error| Failure::Server(doing, error)
    };
    client.query_raw(LEDGER).execute().await.map_err(failed("creating table schema_migrations"))?;
    let applied: Vec<(u32, String, String)> = client
        .query_raw("SELECT number, name, checksum FROM schema_migrations ORDER BY number")
        .fetch_all()
        .await
        .map_err(failed("reading table schema_migrations"))?;
    compare(&applied).map_err(Failure::Foreign)?;
    for migration in MIGRATIONS.iter().filter(|own| applied.iter().all(|(number, ..)| *number != own.number)) {
        let doing = format!("migration {}", migration.name);
        client.query_raw(migration.sql).execute().await.map_err(failed(&doing))?;
        // Two programs that start together may both note it: the notes are alike.
        client
            .query("INSERT INTO schema_migrations (number, name, checksum) VALUES (?, ?, ?)")
            .bind(migration.number)
            .bind(migration.name)
            .bind(migration.checksum())
            .execute()
            .await
            .map_err(failed(&doing))?;
        info!(sink = "clickhouse", migration = migration.name, "migrated");
    }
    Ok(())
}

/// Whether what was applied is the beginning of what this program knows.
fn compare(applied: &[(u32, String, String)]) -> Result<(), String> {
    for (number, name, checksum) in applied {
        let Some(own) = MIGRATIONS.iter().find(|own| own.number == *number) else {
            return Err(format!(
                "the database has migration {name:.64}, but this program knows only 1 to {}: \
                 a newer program has changed it, so run that one",
                MIGRATIONS.len()
            ));
        };
        if own.checksum() != *checksum {
            return Err(format!(
                "migration {} was applied with checksum {checksum:.16}, but the program's own has {}: \
                 an applied migration must not be edited; restore its file and add a new migration",
                own.name,
                own.checksum()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_and_may_be_repeated() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.number as usize, index + 1);
            assert!(migration.name.starts_with(&format!("{:04}_", migration.number)), "{}", migration.name);
            let statement = migration.sql.lines().find(|line| !line.starts_with("--")).expect("a statement");
            let repeatable = statement.contains(" IF NOT EXISTS ") || statement.contains(" IF EXISTS ");
            assert!(repeatable, "{}: {statement}", migration.name);
            let mut code = migration.sql.lines().filter(|line| !line.starts_with("--"));
            assert!(!code.any(|line| line.contains(';')), "{}: one statement a file", migration.name);
        }
    }

    #[test]
    fn a_migration_that_was_released_is_not_edited() {
        let checksums: Vec<String> = MIGRATIONS.iter().map(Migration::checksum).collect();
        assert_eq!(
            checksums,
            ["cfb656b3311cba3d", "dbf351341d6cbb4f", "729823dc3955c43f", "53925ef753171537"],
            "add a new migration instead of editing one"
        );
    }

    #[test]
    fn an_edited_migration_and_a_newer_database_are_refused() {
        let row = |own: &Migration| (own.number, own.name.to_owned(), own.checksum());
        let all: Vec<_> = MIGRATIONS.iter().map(row).collect();
        assert_eq!(compare(&all), Ok(()));
        assert_eq!(compare(&all[..2]), Ok(()));
        let mut edited = all.clone();
        edited[1].2 = "0123".to_owned();
        assert!(compare(&edited).unwrap_err().contains("0002_vehicle_events"));
        let mut newer = all;
        newer.push((99, "0099_future".to_owned(), "0123".to_owned()));
        assert!(compare(&newer).unwrap_err().contains("0099_future"));
    }
}
