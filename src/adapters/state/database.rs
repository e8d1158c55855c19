//! The database file: its tables, their migrations, and the queries.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, params};
use rusqlite_migration::{M, Migrations, SchemaVersion};

use crate::access::session::Session;
use crate::access::token::Key;
use crate::activity::Activity;
use crate::model::label::WorkspaceId;
use crate::model::workspace::Timestamp;
use crate::ports::LastOutcome;

/// The migrations. SQLite's `user_version` is the number of steps applied to a file. A released step must never change: add another
/// step instead.
const STEPS: &[M<'_>] = &[
    M::up(
        "CREATE TABLE secret (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE session (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, secret_digest TEXT NOT NULL, credential TEXT NOT NULL,
        expires INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE workspace (
        id TEXT PRIMARY KEY, failed INTEGER NOT NULL, reason TEXT NOT NULL, at INTEGER NOT NULL
    ) STRICT;",
    ),
    M::up("CREATE TABLE activity (id TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT;"),
    // `owner` is the user who may see the event, apart from admins.
    M::up(
        "CREATE TABLE event (
        id INTEGER PRIMARY KEY, at INTEGER NOT NULL, workspace TEXT, owner TEXT, json TEXT NOT NULL
    ) STRICT;
    CREATE INDEX event_by_workspace ON event (workspace, id);
    CREATE INDEX event_by_owner ON event (owner, id);
    CREATE INDEX event_by_time ON event (at);",
    ),
];

const MIGRATIONS: Migrations<'_> = Migrations::from_slice(STEPS);

const EXPIRE: &str = "DELETE FROM session WHERE expires <= ?1";

/// Why the database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file can't be opened.
    #[error(
        "can't open the state database {path}: {cause}; check its disk, or move the file away (everyone signs in again)"
    )]
    Open {
        /// The file.
        path: String,
        /// SQLite's error message.
        cause: String,
    },
    /// A newer csm wrote the file.
    #[error(
        "can't open the state database {path}: it has version {found}, and this csm reads up to {}; run the csm that wrote it, or move the file away (everyone signs in again)",
        STEPS.len()
    )]
    Newer {
        /// The file.
        path: String,
        /// Its version.
        found: usize,
    },
    /// The thread can't be started.
    #[error("can't start the state database's thread: {0}; check the account's limit of processes and the free memory")]
    Thread(std::io::Error),
    /// A query failed.
    #[error(
        "can't use the state database: {0}; check its disk, or stop csm and move state.db away (everyone signs in again)"
    )]
    Query(#[from] rusqlite::Error),
    /// The thread has ended, because of which csm exits.
    #[error("can't use the state database: its thread has ended; restart csm")]
    Ended,
}

/// The open database file.
pub(super) struct Database {
    connection: Connection,
    /// Whether the last write failed. Reads can succeed on a full disk, so they prove nothing about writes.
    failing: bool,
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |error| StateError::Open {
            path: path.display().to_string(),
            cause: match error {
                // Only SQLite's error, without the statement.
                rusqlite_migration::Error::RusqliteError { err, .. } => err.to_string(),
                other => other.to_string(),
            },
        };
        let mut connection = Connection::open(path).map_err(|error| failed(error.into()))?;
        // Checked before anything is written, so that a newer csm's file is not changed.
        if let SchemaVersion::Outside(found) = MIGRATIONS.current_version(&connection).map_err(failed)? {
            return Err(StateError::Newer { path: path.display().to_string(), found: found.get() });
        }
        let prepared = connection.pragma_update(None, "journal_mode", "WAL").and_then(|()| {
            // The database is small and rarely used, so a page cache of 256 KiB is enough.
            connection.pragma_update(None, "cache_size", -256)
        });
        prepared.map_err(|error| failed(error.into()))?;
        MIGRATIONS.to_latest(&mut connection).map_err(failed)?;
        Ok(Self { connection, failing: false })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Writes in a transaction, and records whether it succeeded.
    pub(super) fn write<T>(&mut self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let written = self.connection.transaction().and_then(|transaction| {
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        });
        self.failing = written.is_err();
        written
    }

    pub(super) fn key(&self, random: [u8; 32]) -> rusqlite::Result<Key> {
        self.connection.execute("INSERT OR IGNORE INTO secret VALUES ('key', ?1)", [random])?;
        Ok(Key::new(self.connection.query_row("SELECT value FROM secret WHERE name = 'key'", [], |row| row.get(0))?))
    }

    pub(super) fn sessions(&self, now: Timestamp) -> rusqlite::Result<Vec<Session>> {
        self.connection.execute(EXPIRE, [now.cast_signed()])?;
        let mut query = self.connection.prepare("SELECT id, owner, secret_digest, credential, expires FROM session")?;
        let rows = query.query_map([], |row| {
            let (owner, expires): (String, i64) = (row.get(1)?, row.get(4)?);
            let session = owner.parse().ok().map(|owner| {
                Ok(Session {
                    id: row.get(0)?,
                    owner,
                    secret_digest: row.get(2)?,
                    credential: row.get(3)?,
                    expires: expires.cast_unsigned(),
                })
            });
            session.transpose()
        })?;
        rows.filter_map(Result::transpose).collect()
    }

    pub(super) fn insert_session(&mut self, session: &Session, now: Timestamp) -> rusqlite::Result<()> {
        self.write(|connection| {
            connection.execute(EXPIRE, [now.cast_signed()])?;
            connection.execute(
                "INSERT INTO session VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    session.id,
                    session.owner.as_str(),
                    session.secret_digest,
                    session.credential,
                    session.expires.cast_signed()
                ],
            )?;
            Ok(())
        })
    }

    pub(super) fn delete_session(&mut self, id: &str) -> rusqlite::Result<()> {
        self.write(|connection| connection.execute("DELETE FROM session WHERE id = ?1", [id]).map(drop))
    }

    pub(super) fn last_outcomes(&self) -> rusqlite::Result<BTreeMap<WorkspaceId, LastOutcome>> {
        let mut query = self.connection.prepare("SELECT id, failed, reason, at FROM workspace")?;
        let rows = query.query_map([], |row| {
            let (id, at): (String, i64) = (row.get(0)?, row.get(3)?);
            Ok((id, LastOutcome { failed: row.get(1)?, reason: row.get(2)?, at: at.cast_unsigned() }))
        })?;
        rows.filter_map(|row| row.map(|(id, outcome)| Some((id.parse().ok()?, outcome))).transpose()).collect()
    }

    /// The stored activity of each workspace. A row that this csm can't read is ignored: the workspace's clocks then start again.
    pub(super) fn activity(&self) -> rusqlite::Result<BTreeMap<WorkspaceId, Activity>> {
        let mut query = self.connection.prepare("SELECT id, json FROM activity")?;
        let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        let parse = |(id, json): (String, String)| Some((id.parse().ok()?, serde_json::from_str(&json).ok()?));
        rows.filter_map(|row| row.map(parse).transpose()).collect()
    }

    pub(super) fn record_activity(&mut self, changed: &[(WorkspaceId, Activity)]) -> rusqlite::Result<()> {
        self.write(|connection| {
            let mut statement = connection.prepare("INSERT OR REPLACE INTO activity VALUES (?1, ?2)")?;
            for (id, activity) in changed {
                let json = serde_json::to_string(activity)
                    .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
                statement.execute(params![id.to_string(), json])?;
            }
            Ok(())
        })
    }

    pub(super) fn record(&mut self, id: &WorkspaceId, outcome: &LastOutcome) -> rusqlite::Result<()> {
        self.write(|connection| {
            connection.execute(
                "INSERT INTO workspace VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (id) DO UPDATE SET failed = excluded.failed, reason = excluded.reason, at = excluded.at",
                params![id.to_string(), outcome.failed, outcome.reason, outcome.at.cast_signed()],
            )?;
            Ok(())
        })
    }

    /// Whether the database can be read. If the last write failed, tries to write again, without changing any data.
    pub(super) fn healthy(&mut self) -> bool {
        if self.failing {
            return self.write(|connection| connection.execute("UPDATE secret SET value = value", [])).is_ok();
        }
        self.connection.query_row("SELECT count(*) FROM session", [], |_| Ok(())).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::Stage;
    use super::*;

    /// A file that csm 0.1.0 wrote.
    const VERSION_1: &str = "
        CREATE TABLE secret (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
        CREATE TABLE session (
            id TEXT PRIMARY KEY, owner TEXT NOT NULL, secret_digest TEXT NOT NULL, credential TEXT NOT NULL,
            expires INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE workspace (
            id TEXT PRIMARY KEY, failed INTEGER NOT NULL, reason TEXT NOT NULL, at INTEGER NOT NULL
        ) STRICT;
        INSERT INTO secret VALUES ('key', zeroblob(32));
        INSERT INTO session VALUES ('a-session', 'dan', 'a-digest', 'a-credential', 500);
        INSERT INTO workspace VALUES ('dan', 1, 'it failed', 7);
        PRAGMA user_version = 1;
    ";

    fn open(stage: &Stage) -> Database {
        Database::open(&stage.path()).expect("opened")
    }

    /// The error when the file is opened.
    fn refused(stage: &Stage) -> String {
        Database::open(&stage.path()).err().expect("refused").to_string()
    }

    #[test]
    fn migrations_keep_the_rows_of_a_version_1_file() {
        let stage = Stage::new();
        stage.other_connection().execute_batch(VERSION_1).expect("made");
        let database = open(&stage);
        assert_eq!(database.key([1; 32]).expect("read").sign(&["x"]), Key::new([0; 32]).sign(&["x"]));
        let session = Session {
            id: "a-session".into(),
            owner: "dan".parse().expect("a name"),
            secret_digest: "a-digest".into(),
            credential: "a-credential".into(),
            expires: 500,
        };
        assert_eq!(database.sessions(100).expect("read"), [session]);
        let outcome = LastOutcome { failed: true, reason: "it failed".into(), at: 7 };
        let outcomes = BTreeMap::from([("dan".parse().expect("an id"), outcome)]);
        assert_eq!(database.last_outcomes().expect("read"), outcomes);
        let version: usize =
            stage.other_connection().query_row("PRAGMA user_version", [], |row| row.get(0)).expect("read");
        assert_eq!(version, STEPS.len());
    }

    #[test]
    fn migrations_keep_the_rows_of_a_version_2_file() {
        let stage = Stage::new();
        let version_2 =
            "CREATE TABLE activity (id TEXT PRIMARY KEY, json TEXT NOT NULL) STRICT; PRAGMA user_version = 2;";
        stage.other_connection().execute_batch(&format!("{VERSION_1}{version_2}")).expect("made");
        let id: WorkspaceId = "dan".parse().expect("an id");
        let json = serde_json::to_string(&Activity::default()).expect("serializes");
        let insert = "INSERT INTO activity VALUES ('dan', ?1)";
        stage.other_connection().execute(insert, [json]).expect("made");
        let mut database = open(&stage);
        assert_eq!(database.activity().expect("read"), BTreeMap::from([(id.clone(), Activity::default())]));
        assert!(database.last_outcomes().expect("read")[&id].failed);
        assert_eq!(database.last_event().expect("read"), 0);
        let fact = crate::model::event::Fact::of_workspace(id, crate::model::event::Kind::Started);
        let event = Arc::new(crate::model::event::Event { id: 1, at: 5, fact });
        database.insert_events(std::slice::from_ref(&event)).expect("stored");
        assert_eq!(database.events(&crate::model::event::Filter::default(), 9).expect("read"), [(*event).clone()]);
    }

    #[test]
    fn every_migration_can_be_applied() {
        MIGRATIONS.validate().expect("valid");
    }

    #[test]
    fn a_newer_file_is_refused_with_a_fix_and_not_changed() {
        let stage = Stage::new();
        stage
            .other_connection()
            .execute_batch(&VERSION_1.replace("user_version = 1", "user_version = 99"))
            .expect("made");
        let before = std::fs::read(stage.path()).expect("read");
        let refused = refused(&stage);
        let says = format!("it has version 99, and this csm reads up to {}; run the csm that wrote it", STEPS.len());
        assert!(refused.contains(&says) && refused.contains("state.db"), "{refused}");
        assert!(std::fs::read(stage.path()).expect("read") == before, "it was changed");
    }

    #[test]
    fn a_broken_file_is_refused_with_a_fix() {
        let stage = Stage::new();
        std::fs::write(stage.path(), "not a database, but long enough for SQLite to read as a header")
            .expect("written");
        let refused = refused(&stage);
        assert!(
            refused.contains("state.db: file is not a database; ") && refused.contains("move the file"),
            "{refused}"
        );
    }

    #[test]
    fn a_failed_write_is_unhealthy_until_a_write_succeeds() {
        let stage = Stage::new();
        let mut database = open(&stage);
        database.key([1; 32]).expect("a key");
        database.connection.pragma_update(None, "query_only", true).expect("set");
        assert!(database.healthy(), "no write has failed yet");
        database.delete_session("any").expect_err("refused");
        assert!(!database.healthy());
        assert!(!database.healthy(), "the second try fails too");
        database.connection.pragma_update(None, "query_only", false).expect("set");
        assert!(database.healthy(), "writing is possible again");
    }

    #[test]
    fn a_missing_table_is_unhealthy() {
        let stage = Stage::new();
        let mut database = open(&stage);
        assert!(database.healthy());
        database.connection.execute_batch("DROP TABLE session").expect("dropped");
        assert!(!database.healthy());
    }
}
