//! Tests of what [`Runtime`] promises, for each implementation: the fake in the unit tests, Podman in tests/e2e, systemd in the guest.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::{Runtime, RuntimeError, StartRequest};
use crate::model::endpoint::Endpoint;
use crate::model::workspace::Progress;
use crate::plan::Phase;

/// A runtime with a workspace of the test's own.
pub(crate) trait Stage {
    type Runtime: Runtime;

    fn runtime(&self) -> &Self::Runtime;

    /// The request to start the workspace.
    fn request(&self) -> StartRequest;

    /// Makes the program in the workspace exit with this code.
    async fn exit(&self, code: u8);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Running,
    Frozen,
    Exited,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Start,
    Stop,
    Freeze,
    Thaw,
    Remove,
}

use Operation::{Freeze, Remove, Start, Stop, Thaw};
use State::{Absent, Exited, Failed, Frozen, Running};

/// Each operation in each state. Those that change the state come last, because starts are slow.
const ALONE: [(State, [Operation; 5]); 5] = [
    (Absent, [Freeze, Thaw, Stop, Remove, Start]),
    (Running, [Start, Thaw, Remove, Freeze, Stop]),
    (Failed, [Freeze, Thaw, Stop, Start, Remove]),
    (Exited, [Freeze, Thaw, Stop, Start, Remove]),
    (Frozen, [Freeze, Remove, Start, Thaw, Stop]),
];

/// Tests a runtime against the contract.
pub(crate) async fn check(stage: &impl Stage) {
    let trial = Trial { stage };
    trial.bring(Absent).await;
    for (state, operations) in ALONE {
        for operation in operations {
            trial.bring(state).await;
            trial.twice(state, operation).await;
        }
    }
    trial.side_by_side().await;
    trial.stopped_while_it_starts().await;
    trial.turns().await;
    trial.bring(Absent).await;
}

struct Trial<'a, S> {
    stage: &'a S,
}

impl<S: Stage> Trial<'_, S> {
    async fn phase(&self) -> Option<Phase> {
        let mut observed = self.stage.runtime().observe().await.expect("observed");
        observed.remove(&self.stage.request().spec.workspace).map(|there| there.phase)
    }

    async fn start(&self, progress: impl Fn(Progress) + Send + Sync) -> Result<Endpoint, RuntimeError> {
        self.stage.runtime().start(self.stage.request(), progress, Arc::new(Semaphore::new(1))).await
    }

    async fn run(&self, operation: Operation) -> Result<(), RuntimeError> {
        let (runtime, id) = (self.stage.runtime(), self.stage.request().spec.workspace);
        match operation {
            Start => self.start(|_| ()).await.map(|endpoint| assert_eq!(endpoint.socket, self.stage.request().socket)),
            Stop => runtime.stop(&id).await,
            Freeze => runtime.freeze(&id).await,
            Thaw => runtime.thaw(&id).await,
            Remove => runtime.remove(&id).await,
        }
    }

    async fn succeeds(&self, operation: Operation) {
        self.run(operation).await.unwrap_or_else(|error| panic!("{operation:?}: {error:?}"));
    }

    /// Brings the workspace into a state, with as few starts as possible.
    async fn bring(&self, state: State) {
        let up = self.phase().await.is_some_and(|phase| phase.is_up());
        match state {
            Absent => {
                self.succeeds(Stop).await;
                self.succeeds(Remove).await;
                self.assert_down("removed").await;
            }
            Running | Frozen => {
                self.succeeds(Start).await;
                if state == Frozen {
                    self.succeeds(Freeze).await;
                }
            }
            Exited | Failed => {
                let code = if state == Failed { 7 } else { 0 };
                if !up && self.is_ended(state == Failed).await {
                    return;
                }
                self.succeeds(Start).await;
                let mut changes = self.stage.runtime().changes();
                self.stage.exit(code).await;
                for _ in 0..60 {
                    if self.is_ended(state == Failed).await {
                        return;
                    }
                    let _ = timeout(Duration::from_secs(1), changes.next()).await;
                }
                panic!("exited with {code}, it is observed as {:?}", self.phase().await);
            }
        }
    }

    /// Whether it is observed as exited; one that did not fail may be absent.
    async fn is_ended(&self, failure: bool) -> bool {
        match self.phase().await {
            None => !failure,
            Some(Phase::Exited { failed, reason }) => failed == failure && (reason.is_some() || !failure),
            Some(_) => false,
        }
    }

    async fn assert_down(&self, what: &str) {
        let phase = self.phase().await;
        assert!(!phase.as_ref().is_some_and(Phase::is_up), "{what}, it is {phase:?}");
    }

    /// Runs an operation twice: the first run has the promised effect, the second changes nothing more.
    async fn twice(&self, state: State, operation: Operation) {
        let before = self.phase().await;
        for time in ["first", "second"] {
            let what = format!("{operation:?} when {state:?}, the {time} time");
            let outcome = self.run(operation).await;
            let after = self.phase().await;
            let up = matches!(state, Running | Frozen);
            match operation {
                Start | Thaw if operation == Start || up => {
                    assert_eq!(outcome, Ok(()), "{what}");
                    assert!(matches!(after, Some(Phase::Running { .. })), "{what}: {after:?}");
                    assert!(!up || since(after.as_ref()) == since(before.as_ref()), "{what}: it was restarted");
                }
                Freeze if up => {
                    assert_eq!(outcome, Ok(()), "{what}");
                    assert!(matches!(after, Some(Phase::Frozen { .. })), "{what}: {after:?}");
                    assert_eq!(since(after.as_ref()), since(before.as_ref()), "{what}: it was restarted");
                }
                Freeze | Thaw | Start => {
                    assert!(matches!(outcome, Err(RuntimeError::NotRunning(_))), "{what}: {outcome:?}");
                    self.assert_down(&what).await;
                }
                Remove if up => {
                    assert!(matches!(outcome, Err(RuntimeError::StillRunning(_))), "{what}: {outcome:?}");
                    assert_eq!(after, before, "{what}");
                }
                Stop | Remove => {
                    assert_eq!(outcome, Ok(()), "{what}");
                    self.assert_down(&what).await;
                }
            }
        }
    }

    async fn side_by_side(&self) {
        self.bring(Absent).await;
        let (one, other) = tokio::join!(self.start(|_| ()), self.start(|_| ()));
        assert_eq!(one.expect("one of two starts"), other.expect("the other"));
        assert!(matches!(self.phase().await, Some(Phase::Running { .. })), "started twice");
        for operation in [Freeze, Thaw, Stop] {
            let outcomes = tokio::join!(self.run(operation), self.run(operation));
            assert_eq!(outcomes, (Ok(()), Ok(())), "{operation:?} side by side");
        }
        self.assert_down("stopped twice").await;
        for first in [Freeze, Stop] {
            self.bring(Running).await;
            let freeze = |outcome| match outcome {
                Ok(()) | Err(RuntimeError::NotRunning(_)) => {}
                Err(error) => panic!("freezing what is being stopped: {error:?}"),
            };
            let stopped = if first == Freeze {
                let (frozen, stopped) = tokio::join!(self.run(Freeze), self.run(Stop));
                freeze(frozen);
                stopped
            } else {
                let (stopped, frozen) = tokio::join!(self.run(Stop), self.run(Freeze));
                freeze(frozen);
                stopped
            };
            assert_eq!(stopped, Ok(()), "stopped, {first:?} first");
            self.assert_down("frozen and stopped").await;
        }
    }

    /// Stops the workspace when a start has reached a step; the start then finishes or is dropped.
    async fn stopped_while_it_starts(&self) {
        self.bring(Absent).await;
        for step in [None, Some(Progress::Creating), Some(Progress::Waiting)] {
            for dropped in [false, true] {
                let what = format!("stopped at {step:?}, dropped: {dropped}");
                let (reached, mut reaches) = watch::channel(step.is_none());
                let start = async {
                    let progress = |now| reached.send_modify(|reached| *reached |= Some(now) == step);
                    let started = self.start(progress).await;
                    reached.send_replace(true);
                    started
                };
                let arrived = async {
                    let _ = reaches.wait_for(|reached| *reached).await;
                };
                if dropped {
                    tokio::select! {
                        biased;
                        _ = start => {}
                        () = arrived => {}
                    }
                    self.succeeds(Stop).await;
                } else {
                    let stop = async {
                        arrived.await;
                        self.succeeds(Stop).await;
                    };
                    let (started, ()) = tokio::join!(start, stop);
                    assert!(matches!(started, Ok(_) | Err(RuntimeError::Interrupted(_))), "{what}: {started:?}");
                }
                self.assert_down(&what).await;
            }
        }
    }

    /// A start waits for its permit, except when the workspace is running already.
    async fn turns(&self) {
        let (runtime, id) = (self.stage.runtime(), self.stage.request().spec.workspace);
        let none = Arc::new(Semaphore::new(0));
        let (queued, mut is_queued) = watch::channel(false);
        let start = runtime.start(
            self.stage.request(),
            |step| queued.send_modify(|queued| *queued |= step == Progress::Queued),
            none.clone(),
        );
        let stop = async {
            is_queued.wait_for(|queued| *queued).await.expect("it is queued");
            runtime.stop(&id).await
        };
        let (started, stopped) = tokio::join!(start, stop);
        assert!(matches!(started, Err(RuntimeError::Interrupted(_))), "{started:?}");
        assert_eq!(stopped, Ok(()));
        self.assert_down("stopped before its turn").await;
        self.bring(Running).await;
        let turn = Arc::new(Semaphore::new(1));
        runtime.start(self.stage.request(), |_| (), none).await.expect("what runs needs no turn");
        self.succeeds(Stop).await;
        runtime.start(self.stage.request(), |_| (), turn.clone()).await.expect("started");
        assert_eq!(turn.available_permits(), 1, "a start gives its permit back");
    }
}

fn since(phase: Option<&Phase>) -> Option<u64> {
    match phase {
        Some(Phase::Running { since, .. } | Phase::Frozen { since }) => Some(*since),
        _ => None,
    }
}

mod tests {
    use super::*;
    use crate::model::layout::Layout;
    use crate::model::manifest::{Machine, Manifest};
    use crate::ports::fake::Fake;

    struct InMemory(Fake);

    impl Stage for InMemory {
        type Runtime = Fake;

        fn runtime(&self) -> &Fake {
            &self.0
        }

        fn request(&self) -> StartRequest {
            let text = r#"{"version":1,"domain":"a.localhost","image":"x","users":{"dan":{"passwordFile":"/p"}}}"#;
            let manifest = Manifest::parse(text, &Machine { memory: 8 << 30, cpus: 4 }).0.unwrap();
            let layout = Layout { run: "/run/csm".into(), state: "/s".into(), share: "/share".into() };
            StartRequest::new(&manifest, manifest.workspaces.values().next().unwrap(), &layout)
        }

        async fn exit(&self, code: u8) {
            let reason = Some(format!("exited with code {code}"));
            self.0.put_phase("dan", Phase::Exited { failed: code != 0, reason });
        }
    }

    #[tokio::test]
    async fn the_fake_keeps_the_contract() {
        check(&InMemory(Fake::default())).await;
    }
}
