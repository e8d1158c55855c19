//! Pure: what is wanted and what is there → what to do.

use std::collections::BTreeMap;

use crate::model::label::WorkspaceId;
use crate::model::workspace::Timestamp;

/// A workspace that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The digest of the specification that it was made from; empty when nobody knows.
    pub digest: String,
    /// How it is.
    pub phase: Phase,
}

/// How a workspace that is there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Somebody is starting it.
    Starting,
    /// It runs.
    Running {
        /// Since when.
        since: Timestamp,
        /// What went wrong meanwhile, for people; empty when nothing did.
        trouble: String,
    },
    /// All its processes are held where they are: it uses no CPU, and answers nobody.
    Frozen {
        /// Since when it runs.
        since: Timestamp,
    },
    /// It has ended, or was never started.
    Ended {
        /// Whether that was a failure.
        failed: bool,
        /// How, for people: `it ended by itself with exit code 1`.
        why: String,
    },
}

impl Phase {
    /// Whether something of it runs.
    pub fn is_up(&self) -> bool {
        !matches!(self, Self::Ended { .. })
    }
}

/// What somebody asked for, and what therefore has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It is to run.
    Up,
    /// It is to run and be held.
    Frozen,
    /// It is not to run: what is still there of it, or appears late, is stopped.
    Down,
    /// Nobody asked for anything since it ended. Who starts it without the daemon has their reason.
    AsFound,
}

/// What is wanted of a declared workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desired {
    /// What was asked for.
    pub wanted: Wanted,
    /// Whether something is being done to it right now.
    pub busy: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make and start the container, in place of one that has ended.
    Start(WorkspaceId),
    /// Hold it.
    Freeze(WorkspaceId),
    /// Let it go on.
    Thaw(WorkspaceId),
    /// Stop it.
    Stop(WorkspaceId),
    /// Remove what is left of a workspace that is no longer declared.
    Remove(WorkspaceId),
}

/// What brings the world to what is wanted. Nothing when it is there already. A container that ended stays until the next start,
/// for its log.
pub fn plan(desired: &BTreeMap<WorkspaceId, Desired>, observed: &BTreeMap<WorkspaceId, Observed>) -> Vec<Action> {
    let mut actions = Vec::new();
    for (id, desired) in desired.iter().filter(|(_, desired)| !desired.busy) {
        match (desired.wanted, observed.get(id).map(|there| &there.phase)) {
            (Wanted::Up, None | Some(Phase::Starting | Phase::Ended { .. })) => actions.push(Action::Start(id.clone())),
            (Wanted::Up, Some(Phase::Frozen { .. })) => actions.push(Action::Thaw(id.clone())),
            (Wanted::Frozen, Some(Phase::Running { .. })) => actions.push(Action::Freeze(id.clone())),
            (Wanted::Down, Some(phase)) if phase.is_up() => actions.push(Action::Stop(id.clone())),
            _ => {}
        }
    }
    for (id, there) in observed.iter().filter(|(id, _)| !desired.contains_key(id)) {
        actions.push(if there.phase.is_up() { Action::Stop(id.clone()) } else { Action::Remove(id.clone()) });
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type World = BTreeMap<WorkspaceId, Observed>;

    fn id(n: u8) -> WorkspaceId {
        WorkspaceId::main(format!("u{n}").parse().expect("a name"))
    }

    fn there(phase: u8) -> Observed {
        let phase = match phase {
            0 => Phase::Starting,
            1 => Phase::Running { since: 1, trouble: String::new() },
            2 => Phase::Frozen { since: 1 },
            _ => Phase::Ended { failed: false, why: String::new() },
        };
        Observed { digest: String::new(), phase }
    }

    fn apply(world: &mut World, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Start(id) => {
                    world.insert(id.clone(), there(1));
                }
                Action::Stop(id) => {
                    *world.get_mut(id).expect("only what is there is stopped") = there(3);
                }
                Action::Freeze(id) => *world.get_mut(id).expect("only what is there is frozen") = there(2),
                Action::Thaw(id) => *world.get_mut(id).expect("only what is there is thawed") = there(1),
                Action::Remove(id) => drop(world.remove(id).expect("only what is there is removed")),
            }
        }
    }

    proptest! {
        #[test]
        fn converges_from_any_state_and_then_does_nothing(
            wanted in prop::collection::btree_map(0u8..20, 0u8..4, 0..20),
            found in prop::collection::btree_map(0u8..20, 0u8..4, 0..20),
        ) {
            let desired: BTreeMap<_, _> = wanted
                .into_iter()
                .map(|(n, wanted)| {
                    let wanted = [Wanted::Up, Wanted::Down, Wanted::Frozen, Wanted::AsFound][usize::from(wanted)];
                    (id(n), Desired { wanted, busy: false })
                })
                .collect();
            let before: World = found.into_iter().map(|(n, phase)| (id(n), there(phase))).collect();
            let mut world = before.clone();
            let actions = plan(&desired, &world);
            apply(&mut world, &actions);
            // What is no longer declared takes a second step: first it stops, then it goes.
            let actions = plan(&desired, &world);
            apply(&mut world, &actions);
            prop_assert_eq!(plan(&desired, &world), vec![]);
            for (id, desired) in &desired {
                let running = world.get(id).is_some_and(|there| matches!(there.phase, Phase::Running { .. }));
                match desired.wanted {
                    Wanted::Up => prop_assert!(running),
                    Wanted::Down => prop_assert!(!world.get(id).is_some_and(|there| there.phase.is_up())),
                    Wanted::Frozen => prop_assert!(!running),
                    Wanted::AsFound => prop_assert_eq!(world.get(id), before.get(id)),
                }
            }
            prop_assert!(world.keys().all(|id| desired.contains_key(id)));
        }
    }

    #[test]
    fn what_is_being_worked_on_is_left_alone() {
        let desired = BTreeMap::from([(id(1), Desired { wanted: Wanted::Up, busy: true })]);
        assert_eq!(plan(&desired, &World::new()), vec![]);
    }
}
