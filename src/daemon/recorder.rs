//! Numbers what happens, and passes it on: to the store and the log, and to those who follow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::Instant;

use super::Daemon;
use crate::activity::{Because, Decision, Keeper, Verdict};
use crate::model::event::{Announced, Event, Fact, Kind, Line};
use crate::model::label::WorkspaceId;
use crate::model::name::Name;
use crate::model::workspace::Timestamp;
use crate::plan::{Cause, Effects};
use crate::ports::{History, Runtime};

/// How many events a follower can be behind. One that is slower is dropped.
const MAX_BEHIND: usize = 1024;

/// How many events of one owner are recorded in short succession, and how often one more is. Programs in a workspace, and visitors who try
/// passwords, can cause any number of events: they can't displace those of others.
const BURST: u32 = 200;
const ONE_MORE_INTERVAL: Duration = Duration::from_secs(300);

/// How often old events are deleted.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);

/// Whose events are limited together: an owner's, or those of refused sign-ins with their name.
type LimitKey = (Option<Name>, bool);

/// Records events.
pub(super) struct Recorder {
    last_id: u64,
    unsent: Vec<Arc<Event>>,
    limits: BTreeMap<LimitKey, (u32, Instant)>,
    followers: broadcast::Sender<Arc<Event>>,
    pruned: Option<Instant>,
}

impl Recorder {
    pub(super) fn new(last_id: u64) -> Self {
        Self {
            last_id,
            unsent: Vec::new(),
            limits: BTreeMap::new(),
            followers: broadcast::channel(MAX_BEHIND).0,
            pruned: None,
        }
    }

    pub(super) fn followers(&self) -> broadcast::Sender<Arc<Event>> {
        self.followers.clone()
    }

    /// Records a fact with the next [`Self::flush`], unless there are too many of its owner.
    pub(super) fn record(&mut self, fact: Fact, at: Timestamp) {
        if !self.admit(&fact) {
            if matches!(fact.kind, Kind::SignInRefused { .. } | Kind::SignedIn { .. }) {
                // An attack must not hide itself from who reads the log.
                tracing::warn!("{fact}; not stored, because there are too many events");
            }
            return;
        }
        self.last_id += 1;
        self.unsent.push(Arc::new(Event { id: self.last_id, at, fact }));
    }

    fn admit(&mut self, fact: &Fact) -> bool {
        let is_refusal = matches!(fact.kind, Kind::SignInRefused { .. });
        if fact.owner().is_none() && !is_refusal {
            return true;
        }
        let now = Instant::now();
        let (left, since) = self.limits.entry((fact.owner().cloned(), is_refusal)).or_insert((BURST, now));
        while *left < BURST && since.elapsed() >= ONE_MORE_INTERVAL {
            (*left, *since) = (*left + 1, *since + ONE_MORE_INTERVAL);
        }
        if *left == BURST {
            *since = now;
        }
        let admitted = *left > 0;
        *left = left.saturating_sub(1);
        admitted
    }

    /// Stores and logs what was recorded since the last call, then sends it to the followers. A follower that reads the store after it has
    /// begun to follow misses nothing.
    pub(super) fn flush(&mut self, history: &impl History) {
        let events = std::mem::take(&mut self.unsent);
        if events.is_empty() {
            return;
        }
        history.record_events(events.clone());
        for event in events {
            // An error means that nobody follows.
            let _ = self.followers.send(event);
        }
    }
}

impl<R: Runtime, H: History> Daemon<R, H> {
    /// Records a fact.
    pub(super) fn record(&mut self, fact: Fact) {
        self.recorder.record(fact, (self.clock)());
    }

    /// Records what has happened to a workspace.
    pub(super) fn record_step(&mut self, id: &WorkspaceId, effects: &Effects) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let mut facts = Vec::new();
        if let Some((kind, cause)) = &effects.happened {
            let repeated = matches!(kind, Kind::Failed { .. }) && entry.last_event.as_ref() == Some(kind);
            if !repeated {
                facts.push(fact(id, kind.clone(), cause));
                entry.last_event = Some(kind.clone());
            }
        }
        let started = matches!(effects.happened, Some((Kind::Started | Kind::Restarted, _)));
        let is_pending = entry.is_update_pending();
        match (std::mem::replace(&mut entry.update_recorded, is_pending), is_pending) {
            (false, true) => facts.push(Fact::of_workspace(id.clone(), Kind::UpdatePending)),
            (true, false) if started => facts.push(Fact::of_workspace(id.clone(), Kind::UpdateApplied)),
            // While it is down, the update stays pending.
            (true, false) if entry.lifecycle.container().is_none() => entry.update_recorded = true,
            _ => {}
        }
        for fact in facts {
            self.record(fact);
        }
    }

    /// Records an announcement, if the decision is to make one.
    pub(super) fn record_announcement(&mut self, id: &WorkspaceId, decision: &Decision) {
        if let Some(next) = decision.verdict.next.filter(|_| decision.announce) {
            let cause = because(next.because, decision.verdict.idle);
            let step = match (next.because, next.stops) {
                (Because::UpdateDeadline, _) => Announced::Restart,
                (_, true) => Announced::Stop,
                (_, false) => Announced::Freeze,
            };
            self.record(fact(id, Kind::Announced { step, seconds: next.seconds }, &cause));
        }
    }

    /// Records the claims of a report that were refused, and the leases that are new since the verdict before it.
    pub(super) fn record_claims(&mut self, id: &WorkspaceId, before: &Verdict, refused: &[String]) {
        let Some(entry) = self.entries.get(id) else { return };
        let known: Vec<&str> = leases(before).map(|(reason, _)| reason).collect();
        let taken: Vec<Kind> = leases(&entry.tracker.verdict)
            .filter(|(reason, _)| !known.contains(reason))
            .map(|(reason, seconds)| Kind::LeaseTaken { reason: Line::new(reason), seconds })
            .collect();
        let refused = refused.iter().map(|text| Kind::ClaimRefused { failure: Line::new(text) });
        for kind in taken.into_iter().chain(refused) {
            self.record(Fact::of_workspace(id.clone(), kind));
        }
    }

    /// Deletes old events, once an hour.
    pub(super) fn prune_events(&mut self) {
        if self.recorder.pruned.is_none_or(|at| at.elapsed() >= PRUNE_INTERVAL) {
            self.recorder.pruned = Some(Instant::now());
            self.history.prune_events((self.clock)().saturating_sub(self.manifest.events.keep.get().as_secs()));
        }
    }
}

fn fact(id: &WorkspaceId, kind: Kind, cause: &Cause) -> Fact {
    Fact::of_workspace(id.clone(), kind).by(cause.actor()).because(cause)
}

fn leases(verdict: &Verdict) -> impl Iterator<Item = (&str, u64)> {
    verdict.kept_by.iter().filter_map(|keeper| match keeper {
        Keeper::Lease { reason, left } => Some((reason.as_str(), *left)),
        _ => None,
    })
}

/// Why a step is taken.
pub(super) fn because(because: Because, idle: u64) -> Cause {
    match because {
        Because::Idle => Cause::Idle(idle),
        Because::Update => Cause::IdleUpdate(idle),
        Because::MaxRuntime => Cause::MaxRuntime,
        Because::UpdateDeadline => Cause::UpdateDeadline,
    }
}
