//! Ends sessions whose user was removed from the manifest or has a new password.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::app::App;
use crate::adapters::passwords::stored;
use crate::adapters::state::StateError;
use crate::model::digest::sha256_hex;
use crate::model::event::{Fact, Kind};
use crate::model::name::Name;

/// How often sessions are compared with the password files.
const COMPARE_INTERVAL: Duration = Duration::from_secs(60);

impl App {
    /// The keyed digest of a password file's content, which is stored with the session.
    pub(super) fn credential(&self, content: &[u8]) -> String {
        self.key.sign(&["credential", &sha256_hex(content)])
    }

    /// Ends the sessions of users who were removed or have a new password: at each new manifest, and once a minute.
    pub async fn revoke_forever(self: Arc<Self>) {
        let mut manifest = self.manifest.clone();
        let mut compare = tokio::time::interval(COMPARE_INTERVAL);
        loop {
            tokio::select! {
                _ = compare.tick() => {}
                changed = manifest.changed() => if changed.is_err() { return },
            }
            self.revoke().await;
        }
    }

    pub(super) async fn revoke(&self) {
        self.delete_ended().await;
        let manifest = self.manifest();
        let sessions: Vec<(String, Name, String)> = self
            .access()
            .sessions
            .iter()
            .map(|session| (session.id.clone(), session.owner.clone(), session.credential.clone()))
            .collect();
        let owners = sessions.iter().filter_map(|(_, owner, _)| manifest.owners.get(owner));
        let files: BTreeMap<Name, PathBuf> =
            owners.map(|owner| (owner.name.clone(), owner.password_file.path().to_owned())).collect();
        let read = || files.into_iter().map(|(owner, file)| (owner, stored(&file))).collect::<BTreeMap<_, _>>();
        let contents = match tokio::task::spawn_blocking(read).await {
            Ok(contents) => contents,
            Err(error) => return tracing::error!(%error, "can't compare sessions with the password files"),
        };
        // A user without an entry is not declared. An entry is `None` if the file can't be read now, which does not end sessions.
        let current: BTreeMap<Name, Option<String>> = contents
            .into_iter()
            .map(|(owner, content)| (owner, content.map(|content| self.credential(&content))))
            .collect();
        let mut ended = Vec::new();
        for (id, owner, credential) in sessions {
            if current.get(&owner).is_none_or(|now| now.as_ref().is_some_and(|now| *now != credential)) {
                let cause = "the password has changed, or the user was removed";
                self.daemon.record(Fact::of_user(Some(owner), Kind::SessionEnded).because(cause));
                ended.push(id);
            }
        }
        self.end_sessions(ended).await;
    }

    /// Ends sessions immediately, even if the database can't be written. Then their rows are deleted later.
    pub(super) async fn end_sessions(&self, ids: Vec<String>) {
        {
            let mut access = self.access();
            for id in &ids {
                access.sessions.remove(id);
            }
            // Kept until the database has deleted them: if the client disconnects, this future is dropped before that.
            access.undeleted.extend(ids.iter().cloned());
        }
        for id in ids {
            if let Err(error) = self.delete(&id).await {
                tracing::error!(%error, "can't delete an ended session from the database: a restart now would restore it");
            }
        }
    }

    async fn delete(&self, id: &str) -> Result<(), StateError> {
        self.state.delete_session(id).await?;
        self.access().undeleted.remove(id);
        Ok(())
    }

    /// Tries again to delete the sessions that [`Self::end_sessions`] could not delete. Their error was logged, and `/healthz` reports the database.
    async fn delete_ended(&self) {
        let undeleted = self.access().undeleted.clone();
        for id in undeleted {
            let _ = self.delete(&id).await;
        }
    }
}
