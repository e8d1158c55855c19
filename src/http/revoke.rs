//! Sessions end with what they rest on: the person's place in the manifest, and their password.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::App;
use crate::adapters::passwords::stored;
use crate::model::digest::sha256_hex;
use crate::model::name::Name;

/// How often password files are compared with the sessions that rest on them.
const COMPARE: Duration = Duration::from_secs(60);

impl App {
    /// The digest of a password file's content, as sessions remember it.
    pub(super) fn credential(&self, content: &[u8]) -> String {
        self.key.sign(&["credential", &sha256_hex(content)])
    }

    /// Ends sessions of people who are gone or have another password now; at each new manifest, and once a minute.
    pub async fn revoke_forever(self: Arc<Self>) {
        let mut manifest = self.manifest.clone();
        let mut compare = tokio::time::interval(COMPARE);
        loop {
            tokio::select! {
                _ = compare.tick() => {}
                changed = manifest.changed() => if changed.is_err() { return },
            }
            let app = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || app.revoke()).await {
                tracing::error!(%error, "sessions were not compared with their passwords");
            }
        }
    }

    pub(super) fn revoke(&self) {
        self.delete_ended();
        let manifest = self.manifest();
        let sessions: Vec<(String, Name, String)> = self
            .access()
            .sessions
            .iter()
            .map(|session| (session.id.clone(), session.owner.clone(), session.credential.clone()))
            .collect();
        // None: there is no such person. Some(None): their file can't be read now, which proves nothing.
        let mut credentials: BTreeMap<Name, Option<Option<String>>> = BTreeMap::new();
        for (id, owner, credential) in sessions {
            let current = credentials.entry(owner.clone()).or_insert_with(|| {
                let file = manifest.owners.get(&owner)?.password_file.path();
                Some(stored(file).map(|content| self.credential(&content)))
            });
            if current.as_ref().is_some_and(|current| current.as_ref().is_none_or(|current| *current == credential)) {
                continue;
            }
            tracing::info!(%owner, "a session ended: its password has changed, or the person is gone");
            self.end_session(&id);
        }
    }

    /// Ends a session at once, even when the database can't be written; then its row there goes later.
    pub(super) fn end_session(&self, id: &str) {
        self.access().sessions.remove(id);
        if let Err(error) = self.state.delete_session(id) {
            tracing::error!(%error, "a session has ended, but is still in the database: a restart now would bring it back");
            self.access().undeleted.push(id.to_owned());
        }
    }

    /// Tries again what [`Self::end_session`] could not do. That was logged; until it succeeds, `/healthz` tells.
    fn delete_ended(&self) {
        let mut ended = std::mem::take(&mut self.access().undeleted);
        ended.retain(|id| self.state.delete_session(id).is_err());
        self.access().undeleted.append(&mut ended);
    }
}
