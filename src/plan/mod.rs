//! Pure: what is wanted and what is there → what to do.

use std::collections::BTreeMap;

use crate::model::label::WorkspaceId;
use crate::model::workspace::Timestamp;

/// A container that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The digest of the specification that it was made from.
    pub digest: String,
    /// Since when it runs, or `None` when it has ended or was never started.
    pub running_since: Option<Timestamp>,
    /// How it ended.
    pub exit_code: Option<i32>,
}

/// What is wanted of a declared workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desired {
    /// Whether it should run.
    pub run: bool,
    /// Whether something is being done to it right now.
    pub busy: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make and start the container, in place of one that has ended.
    Start(WorkspaceId),
    /// Stop it.
    Stop(WorkspaceId),
    /// Remove what is left of a workspace that is no longer declared.
    Remove(WorkspaceId),
}

/// What brings the world to what is wanted. Nothing when it is there already. A container that ended stays until the next start,
/// for its log.
pub fn plan(desired: &BTreeMap<WorkspaceId, Desired>, observed: &BTreeMap<WorkspaceId, Observed>) -> Vec<Action> {
    let mut actions = Vec::new();
    for (id, wanted) in desired.iter().filter(|(_, wanted)| !wanted.busy) {
        let runs = observed.get(id).is_some_and(|there| there.running_since.is_some());
        match (wanted.run, runs) {
            (true, false) => actions.push(Action::Start(id.clone())),
            (false, true) => actions.push(Action::Stop(id.clone())),
            _ => {}
        }
    }
    for (id, there) in observed.iter().filter(|(id, _)| !desired.contains_key(id)) {
        actions.push(match there.running_since {
            Some(_) => Action::Stop(id.clone()),
            None => Action::Remove(id.clone()),
        });
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

    fn apply(world: &mut World, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Start(id) => {
                    world.insert(
                        id.clone(),
                        Observed { digest: String::new(), running_since: Some(1), exit_code: None },
                    );
                }
                Action::Stop(id) => {
                    let there = world.get_mut(id).expect("only what is there is stopped");
                    (there.running_since, there.exit_code) = (None, Some(0));
                }
                Action::Remove(id) => drop(world.remove(id).expect("only what is there is removed")),
            }
        }
    }

    proptest! {
        #[test]
        fn converges_from_any_state_and_then_does_nothing(
            wanted in prop::collection::btree_map(0u8..20, any::<bool>(), 0..20),
            there in prop::collection::btree_map(0u8..20, any::<bool>(), 0..20),
        ) {
            let desired: BTreeMap<_, _> =
                wanted.into_iter().map(|(n, run)| (id(n), Desired { run, busy: false })).collect();
            let mut world: World = there
                .into_iter()
                .map(|(n, runs)| (id(n), Observed { digest: String::new(), running_since: runs.then_some(1), exit_code: None }))
                .collect();
            let actions = plan(&desired, &world);
            apply(&mut world, &actions);
            // What is no longer declared takes a second step: first it stops, then it goes.
            let actions = plan(&desired, &world);
            apply(&mut world, &actions);
            prop_assert_eq!(plan(&desired, &world), vec![]);
            for (id, wanted) in &desired {
                prop_assert_eq!(world.get(id).is_some_and(|o| o.running_since.is_some()), wanted.run);
            }
            prop_assert!(world.keys().all(|id| desired.contains_key(id)));
        }
    }

    #[test]
    fn what_is_being_worked_on_is_left_alone() {
        let desired = BTreeMap::from([(id(1), Desired { run: true, busy: true })]);
        assert_eq!(plan(&desired, &World::new()), vec![]);
    }
}
