use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::plan::Actor;

const DIGEST: &str = "new";

fn by_dan(verb: Verb) -> Cause {
    Cause::Requested(verb, Actor::User("dan".parse().expect("a name")))
}

fn container() -> Container {
    Container { since: 5, digest: Some("old".into()), warning: None }
}

fn failure(still_runs: bool) -> Failure {
    Failure { message: "podman is slow".into(), log: vec!["the last line".into()], still_runs }
}

/// Every stage, once for each difference in its data that changes what events do.
fn stages() -> Vec<Stage> {
    let restart = || Some(by_dan(Verb::Restart));
    vec![
        Stage::Unknown { failed: false, requested: None },
        Stage::Unknown { failed: true, requested: None },
        Stage::Unknown { failed: false, requested: Some((Verb::Start, Cause::AutoStart)) },
        Stage::Unknown { failed: false, requested: Some((Verb::Stop, by_dan(Verb::Stop))) },
        Stage::Unknown { failed: false, requested: Some((Verb::Restart, by_dan(Verb::Restart))) },
        Stage::Stopped,
        Stage::Failed { message: None, log: vec![] },
        Stage::Starting { job: 1, progress: Progress::Queued, digest: DIGEST.into() },
        Stage::Running(container()),
        Stage::Freezing { job: 1, container: container(), cause: by_dan(Verb::Freeze), thaw: None },
        Stage::Freezing {
            job: 1,
            container: container(),
            cause: by_dan(Verb::Freeze),
            thaw: Some(by_dan(Verb::Start)),
        },
        Stage::Frozen(container()),
        Stage::Thawing { job: 1, container: container(), cause: by_dan(Verb::Start) },
        Stage::Stopping { job: 1, restart: None },
        Stage::Stopping { job: 1, restart: restart() },
        Stage::StopFailed { message: "podman is slow".into(), cause: by_dan(Verb::Stop), restart: None },
        Stage::StopFailed { message: "podman is slow".into(), cause: by_dan(Verb::Restart), restart: restart() },
        Stage::Unresponsive { message: "restart it".into(), log: vec![] },
    ]
}

fn observed(phase: Phase) -> Option<Observed> {
    Some(Observed { digest: Some("seen".into()), phase })
}

fn running(warning: Option<&str>) -> Option<Observed> {
    observed(Phase::Running { since: 9, warning: warning.map(str::to_owned) })
}

fn exited(failed: bool) -> Option<Observed> {
    observed(Phase::Exited { failed, reason: failed.then(|| "exited with code 7".to_owned()) })
}

fn observations() -> Vec<Option<Observed>> {
    vec![
        None,
        observed(Phase::Starting),
        running(None),
        running(Some("out of memory")),
        observed(Phase::Frozen { since: 9 }),
        exited(false),
        exited(true),
    ]
}

fn events() -> Vec<Event> {
    let mut events: Vec<Event> = [Verb::Start, Verb::Freeze, Verb::Stop, Verb::Restart]
        .into_iter()
        .map(|verb| Event::Requested(verb, by_dan(verb)))
        .collect();
    events.extend([
        Event::Progress(1, Progress::Waiting),
        Event::Progress(0, Progress::Waiting),
        Event::Finished(1, Ok(())),
        Event::Finished(0, Ok(())),
        Event::Finished(1, Err(failure(false))),
        Event::Finished(1, Err(failure(true))),
        Event::Retry,
        Event::LogRead(vec!["the last line".into()]),
    ]);
    events.extend(observations().into_iter().map(Event::Observed));
    events
}

fn at(stage: Stage) -> Lifecycle {
    Lifecycle { stage, cause: Cause::NeverStarted, changed_at: 0, last_job: 1 }
}

/// Applies every event to every stage. The snapshot defines the state machine: review each line that changes.
#[test]
fn every_event_in_every_stage() {
    let mut table = String::new();
    for stage in stages() {
        let _ = writeln!(table, "{stage:?}");
        for event in events() {
            let mut lifecycle = at(stage.clone());
            let effects = lifecycle.handle(event.clone(), DIGEST, 100);
            if lifecycle == at(stage.clone()) && effects == Effects::default() {
                continue;
            }
            let _ = writeln!(table, "  {event:?}\n    → {:?}; {}", lifecycle.stage, lifecycle.cause);
            if effects != Effects::default() {
                let _ = writeln!(table, "      {effects:?}");
            }
        }
    }
    insta::assert_snapshot!(table);
}

/// After each event, a stage that waits for a step waits for the newest step, or for the same one as before.
#[test]
fn a_waiting_stage_has_its_step_in_progress() {
    for stage in stages() {
        for event in events() {
            let mut lifecycle = at(stage.clone());
            let effects = lifecycle.handle(event.clone(), DIGEST, 100);
            let case = format!("{stage:?} + {event:?} → {lifecycle:?} {effects:?}");
            match (effects.step, lifecycle.stage.job()) {
                (Some((job, step)), Some(awaited)) => {
                    assert_eq!((job, Some(step)), (awaited, lifecycle.stage.step()), "{case}");
                    assert!(job > 1, "a new job: {case}");
                }
                (None, Some(awaited)) => assert_eq!(Some(awaited), stage.job(), "the same job as before: {case}"),
                (None, None) => {}
                (Some(_), None) => panic!("the stage does not wait for the step: {case}"),
            }
        }
    }
}

/// A runtime in which every step succeeds immediately.
fn apply(world: &mut Option<Observed>, step: Step) {
    *world = match (step, world.take()) {
        (Step::Start | Step::Thaw, _) => running(None),
        (Step::Freeze, Some(_)) => observed(Phase::Frozen { since: 9 }),
        (Step::Freeze, None) => None,
        (Step::Stop, observed) => observed.map(|_| exited(false).expect("some")),
    };
}

/// Observes the runtime and applies the resulting steps until there are none. Returns the number of observations that led to a step.
fn settle(lifecycle: &mut Lifecycle, world: &mut Option<Observed>) -> usize {
    for steps in 0..10 {
        let mut effects = lifecycle.handle(Event::Observed(world.clone()), DIGEST, 100);
        if effects.step.is_none() {
            if !matches!(lifecycle.stage, Stage::StopFailed { .. }) {
                return steps;
            }
            effects = lifecycle.handle(Event::Retry, DIGEST, 100);
        }
        let mut next = effects.step;
        while let Some((job, step)) = next {
            apply(world, step);
            next = lifecycle.handle(Event::Finished(job, Ok(())), DIGEST, 100).step;
        }
    }
    panic!("it never settles: {lifecycle:?} {world:?}");
}

proptest! {
    #[test]
    fn converges_from_any_state_and_then_does_nothing(
        stage in prop::sample::select(stages()),
        found in prop::sample::select(observations()),
        verb in prop::sample::select(vec![Verb::Start, Verb::Freeze, Verb::Stop, Verb::Restart]),
    ) {
        let mut world = found;
        let mut lifecycle = at(stage);
        // Steps in progress finish first.
        if let (Some(job), Some(step)) = (lifecycle.stage.job(), lifecycle.stage.step()) {
            apply(&mut world, step);
            let effects = lifecycle.handle(Event::Finished(job, Ok(())), DIGEST, 100);
            if let Some((job, step)) = effects.step {
                apply(&mut world, step);
                lifecycle.handle(Event::Finished(job, Ok(())), DIGEST, 100);
            }
        }
        settle(&mut lifecycle, &mut world);
        let mut next = lifecycle.handle(Event::Requested(verb, by_dan(verb)), DIGEST, 100).step;
        while let Some((job, step)) = next {
            apply(&mut world, step);
            next = lifecycle.handle(Event::Finished(job, Ok(())), DIGEST, 100).step;
        }
        settle(&mut lifecycle, &mut world);
        let phase = world.as_ref().map(|observed| observed.phase.clone());
        match verb {
            Verb::Start | Verb::Restart => prop_assert!(matches!(phase, Some(Phase::Running { .. })), "{phase:?}"),
            Verb::Stop => prop_assert!(phase.is_none_or(|phase| !phase.is_up())),
            Verb::Freeze => prop_assert!(!matches!(phase, Some(Phase::Running { .. })), "{phase:?}"),
        }
        prop_assert!(lifecycle.is_settled());
        let before = (lifecycle.clone(), world.clone());
        prop_assert_eq!(settle(&mut lifecycle, &mut world), 0, "a second pass does nothing");
        prop_assert_eq!(before, (lifecycle, world));
    }

    /// In any sequence of events, including outdated results and observations, no stage waits for a step that has finished.
    #[test]
    fn no_stage_waits_for_a_finished_step(choices in prop::collection::vec(0usize..1000, 0..40)) {
        let mut lifecycle = Lifecycle::new(false, Cause::NeverStarted, 0);
        let mut in_progress: Vec<JobId> = Vec::new();
        for choice in choices {
            let all = events();
            let event = match in_progress.first() {
                Some(_) if choice % 3 == 0 => {
                    let job = in_progress.remove(choice % in_progress.len());
                    Event::Finished(job, if choice % 2 == 0 { Ok(()) } else { Err(failure(choice % 5 == 0)) })
                }
                _ => match all[choice % all.len()].clone() {
                    // The arm above finishes jobs.
                    Event::Finished(..) => Event::Retry,
                    event => event,
                },
            };
            if let Some((job, _)) = lifecycle.handle(event, DIGEST, 100).step {
                in_progress.push(job);
            }
            if let Some(job) = lifecycle.stage.job() {
                prop_assert!(in_progress.contains(&job), "it waits for {job}, which has finished: {lifecycle:?}");
            }
        }
    }
}
