//! The table of events: appended to, read backwards, and pruned in batches.

use std::fmt::Write as _;
use std::sync::Arc;

use rusqlite::{Connection, named_params, params};

use super::database::Database;
use crate::model::event::{Event, Filter};
use crate::model::workspace::Timestamp;

/// The most events that are kept.
const MAX_EVENTS: u64 = 1_000_000;

/// How many events a transaction deletes, and how many transactions there are at a time. Other jobs of the thread wait meanwhile.
const PRUNE_BATCH: u32 = 1000;
const PRUNE_BATCHES: usize = 10;

impl Database {
    pub(super) fn last_event(&self) -> rusqlite::Result<u64> {
        let last: i64 = self.connection().query_row("SELECT coalesce(max(id), 0) FROM event", [], |row| row.get(0))?;
        Ok(last.cast_unsigned())
    }

    /// Appends events in one transaction.
    pub(super) fn insert_events(&mut self, events: &[Arc<Event>]) -> rusqlite::Result<()> {
        self.write(|connection| {
            let mut statement = connection.prepare("INSERT INTO event VALUES (?1, ?2, ?3, ?4, ?5)")?;
            for event in events {
                let json = serde_json::to_string(&**event)
                    .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
                let workspace = event.fact.workspace.as_ref().map(ToString::to_string);
                let owner = event.fact.owner().map(ToString::to_string);
                statement.execute(params![event.id.cast_signed(), event.at.cast_signed(), workspace, owner, json])?;
            }
            Ok(())
        })
    }

    /// The newest events that a filter admits, oldest first. A row that this csm can't read is left out.
    pub(super) fn events(&self, filter: &Filter, limit: usize) -> rusqlite::Result<Vec<Event>> {
        let mut condition = String::from("at >= :since");
        for (column, wanted) in [("owner", filter.owner.is_some()), ("workspace", filter.workspace.is_some())] {
            if wanted {
                let _ = write!(condition, " AND {column} = :{column}");
            }
        }
        let owner = filter.owner.as_ref().map(ToString::to_string);
        let workspace = filter.workspace.as_ref().map(ToString::to_string);
        let since = filter.since.cast_signed();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = format!("SELECT json FROM event WHERE {condition} ORDER BY id DESC LIMIT :limit");
        let mut query = self.connection().prepare(&sql)?;
        let all = named_params! { ":since": since, ":owner": owner, ":workspace": workspace, ":limit": limit };
        // SQLite refuses parameters that the statement does not have.
        let used: Vec<_> = all.iter().filter(|(name, _)| sql.contains(name)).copied().collect();
        let rows = query.query_map(used.as_slice(), |row| row.get::<_, String>(0))?;
        let mut events = rows
            .filter_map(|row| row.map(|json| serde_json::from_str(&json).ok()).transpose())
            .collect::<rusqlite::Result<Vec<Event>>>()?;
        events.reverse();
        Ok(events)
    }

    /// Deletes events before a time, and the oldest if there are too many: some of them at a time.
    pub(super) fn prune_events(&mut self, before: Timestamp) -> rusqlite::Result<()> {
        self.prune(before, MAX_EVENTS)
    }

    fn prune(&mut self, before: Timestamp, max: u64) -> rusqlite::Result<()> {
        let oldest = self.last_event()?.saturating_sub(max).cast_signed();
        let is_full = |deleted: usize| deleted >= PRUNE_BATCH as usize;
        let delete = |connection: &Connection| {
            let old = "SELECT id FROM event WHERE at < ?1 ORDER BY at LIMIT ?2";
            let surplus = "SELECT id FROM event WHERE id <= ?1 ORDER BY id LIMIT ?2";
            let old = connection.execute(
                &format!("DELETE FROM event WHERE id IN ({old})"),
                [before.cast_signed(), PRUNE_BATCH.into()],
            )?;
            let surplus = connection
                .execute(&format!("DELETE FROM event WHERE id IN ({surplus})"), [oldest, PRUNE_BATCH.into()])?;
            Ok(is_full(old) || is_full(surplus))
        };
        for _ in 0..PRUNE_BATCHES {
            if !self.write(delete)? {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Stage;
    use super::*;
    use crate::model::event::{Fact, Kind, Line};

    fn event(id: u64, at: Timestamp, workspace: &str) -> Arc<Event> {
        Arc::new(Event { id, at, fact: Fact::of_workspace(workspace.parse().expect("an id"), Kind::Started) })
    }

    fn open(stage: &Stage) -> Database {
        Database::open(&stage.path()).expect("opened")
    }

    fn ids(database: &Database, filter: &Filter, limit: usize) -> Vec<u64> {
        database.events(filter, limit).expect("read").iter().map(|event| event.id).collect()
    }

    #[test]
    fn the_newest_events_are_read_in_order_and_filtered_as_the_filter_says() {
        let stage = Stage::new();
        let mut database = open(&stage);
        let names = ["dan", "eve", "api--dan"];
        let mut events: Vec<_> =
            (1..=9).map(|n| event(n, 100 + n, names[usize::try_from(n).expect("small") % 3])).collect();
        let refused =
            Fact::of_user(Some("dan".parse().expect("a name")), Kind::SignInRefused { source: Line::new("::1") });
        events.push(Arc::new(Event { id: 10, at: 110, fact: refused }));
        events.push(Arc::new(Event { id: 11, at: 111, fact: Fact::new(Kind::ManifestApplied { users: 2 }) }));
        database.insert_events(&events).expect("stored");
        assert_eq!(database.last_event().expect("read"), 11);
        assert_eq!(ids(&database, &Filter::default(), 3), [9, 10, 11]);
        let filters = [
            Filter::default(),
            Filter { owner: Some("dan".parse().expect("a name")), ..Filter::default() },
            Filter { workspace: Some("api--dan".parse().expect("an id")), since: 103, ..Filter::default() },
            Filter {
                owner: Some("eve".parse().expect("a name")),
                workspace: Some("dan".parse().expect("an id")),
                since: 0,
            },
        ];
        for filter in filters {
            let admitted: Vec<u64> = events.iter().filter(|event| filter.admits(event)).map(|event| event.id).collect();
            assert_eq!(ids(&database, &filter, 100), admitted, "{filter:?}");
        }
    }

    #[test]
    fn old_and_surplus_events_are_deleted_some_at_a_time() {
        let stage = Stage::new();
        let mut database = open(&stage);
        let events: Vec<_> = (1..=15_000).map(|n| event(n, n, "dan")).collect();
        database.insert_events(&events).expect("stored");
        let left = |database: &Database| {
            (ids(database, &Filter::default(), 1_000_000).len(), ids(database, &Filter::default(), 1_000_000)[0])
        };
        database.prune(14_001, u64::MAX).expect("pruned");
        assert_eq!(left(&database), (5_000, 10_001), "at most 10,000 at a time");
        database.prune(14_001, u64::MAX).expect("pruned");
        assert_eq!(left(&database), (1_000, 14_001));
        database.prune(0, 100).expect("pruned");
        assert_eq!(left(&database), (100, 14_901));
        assert_eq!(database.last_event().expect("read"), 15_000, "numbers are not used again");
    }

    #[test]
    fn events_that_a_full_disk_refuses_leave_the_others_and_the_next_ones_are_stored() {
        let stage = Stage::new();
        let mut database = open(&stage);
        database.insert_events(&[event(1, 1, "dan")]).expect("stored");
        let pages: i64 = database.connection().query_row("PRAGMA page_count", [], |row| row.get(0)).expect("read");
        let set = |database: &Database, max: i64| {
            let set = format!("PRAGMA max_page_count = {max}");
            let _: i64 = database.connection().query_row(&set, [], |row| row.get(0)).expect("set");
        };
        set(&database, pages);
        let many: Vec<_> = (2..=2000).map(|n| event(n, n, "dan")).collect();
        let error = database.insert_events(&many).expect_err("full").to_string();
        assert!(error.contains("full"), "{error}");
        assert_eq!(ids(&database, &Filter::default(), 10), [1], "all of a batch or nothing");
        set(&database, 1_000_000);
        database.insert_events(&[event(2001, 2001, "dan")]).expect("stored");
        assert_eq!(ids(&database, &Filter::default(), 10), [1, 2001]);
    }
}
