//! What programs inside a workspace say: agents report their state, and anything can ask for a lease. A claim can only extend its own
//! workspace's life, up to `autostop.maxLease`. Everything in it may be a lie, so all of it is bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::printed;

/// The most agents and leases that are kept of a workspace.
const MAX_ENTRIES: usize = 32;

/// The most characters of a name or reason.
const MAX_TEXT: usize = 100;

/// How long an agent counts as working without a word from it, if its process is not known.
const AGENT_SILENCE: Duration = Duration::from_secs(3600);

/// What an agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AgentState {
    /// It works.
    Working,
    /// It waits for an answer from a person.
    Question,
    /// It waits for a person's permission.
    Permission,
    /// It has finished its task.
    Done,
    /// It has no task.
    Idle,
}

/// What a program in a workspace says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "claim")]
pub enum Claim {
    /// An agent's state.
    Agent {
        /// Identifies the agent, or one of its sessions, within the workspace.
        id: String,
        /// The agent's name for display; the id if it is missing.
        #[serde(default)]
        name: Option<String>,
        /// What it does.
        state: AgentState,
        /// Its process, as it is numbered inside the workspace. When the process no longer exists, the agent no longer counts.
        #[serde(default)]
        pid: Option<u32>,
    },
    /// Asks that the workspace is kept for some time, or replaces an earlier lease with the same id.
    Lease {
        /// Identifies the lease within the workspace.
        id: String,
        /// Why, for display.
        #[serde(default)]
        reason: Option<String>,
        /// For how many seconds; 0 ends the lease.
        seconds: u64,
    },
}

/// Why a claim is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// An agent that has reported its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// The agent's name for display.
    pub name: String,
    /// What it does.
    pub state: AgentState,
    /// The time in this state.
    pub since: Duration,
    /// The time since it last reported.
    pub silent: Duration,
    /// Whether its process is known, and watched.
    pub has_process: bool,
}

impl Agent {
    /// Whether it counts as working.
    pub fn works(&self) -> bool {
        self.state == AgentState::Working && (self.has_process || self.silent < AGENT_SILENCE)
    }

    /// Whether it waits for a person.
    pub fn waits(&self) -> bool {
        matches!(self.state, AgentState::Question | AgentState::Permission)
    }
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// Why, for display.
    pub reason: String,
    /// The time that is left.
    pub left: Duration,
}

/// The agents and leases of a workspace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) agents: BTreeMap<String, Agent>,
    pub(super) leases: BTreeMap<String, Lease>,
}

fn text(given: &str) -> String {
    let short: String = given.chars().take(MAX_TEXT).collect();
    printed::to_one_line(&short)
}

impl Claims {
    /// Accepts a claim, or says why not.
    pub(super) fn accept(&mut self, claim: Claim, max_lease: Duration) -> Result<(), Refused> {
        match claim {
            Claim::Agent { id, name, state, pid } => {
                let id = text(&id);
                if !self.agents.contains_key(&id) {
                    self.make_room_for_agent()?;
                }
                let name = name.map_or_else(|| id.clone(), |name| text(&name));
                let before = self.agents.get(&id).filter(|agent| agent.state == state);
                let since = before.map_or(Duration::ZERO, |agent| agent.since);
                let has_process = pid.is_some();
                self.agents.insert(id, Agent { name, state, since, silent: Duration::ZERO, has_process });
            }
            Claim::Lease { id, seconds: 0, .. } => drop(self.leases.remove(&text(&id))),
            Claim::Lease { id, reason, seconds } => {
                let left = Duration::from_secs(seconds);
                if left > max_lease {
                    let most = max_lease.as_secs();
                    return Err(Refused(format!(
                        "can't keep the workspace for {seconds} s: autostop.maxLease is {most} s; ask for at most that"
                    )));
                }
                let id = text(&id);
                if !self.leases.contains_key(&id) && self.leases.len() >= MAX_ENTRIES {
                    return Err(Refused(format!(
                        "can't add a lease: the workspace has {MAX_ENTRIES} already; end one of them, or use its id again"
                    )));
                }
                let reason = reason.map_or_else(|| id.clone(), |reason| text(&reason));
                self.leases.insert(id, Lease { reason, left });
            }
        }
        Ok(())
    }

    /// Removes the agent that has been silent the longest, one that works only if all of them do.
    fn make_room_for_agent(&mut self) -> Result<(), Refused> {
        if self.agents.len() < MAX_ENTRIES {
            return Ok(());
        }
        let oldest = self.agents.iter().filter(|(_, agent)| !agent.works()).max_by_key(|(_, agent)| agent.silent);
        let Some(id) = oldest.map(|(id, _)| id.clone()) else {
            return Err(Refused(format!(
                "can't add an agent: {MAX_ENTRIES} agents work already; report one of them as idle"
            )));
        };
        self.agents.remove(&id);
        Ok(())
    }

    /// Lets time pass.
    pub(super) fn advance(&mut self, time: Duration) {
        for agent in self.agents.values_mut() {
            agent.since += time;
            agent.silent += time;
        }
        for lease in self.leases.values_mut() {
            lease.left = lease.left.saturating_sub(time);
        }
        self.leases.retain(|_, lease| !lease.left.is_zero());
    }
}
