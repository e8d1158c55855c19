use std::sync::Mutex;

use super::*;
use crate::activity::Activity;
use crate::model::manifest::Machine;
use crate::model::workspace::{State, Timestamp};
use crate::plan::{Actor, Phase};
use crate::ports::LastOutcome;
use crate::ports::fake::{Fake, runs};

#[derive(Clone, Default)]
struct Memory(
    Arc<Mutex<BTreeMap<WorkspaceId, LastOutcome>>>,
    Arc<Mutex<BTreeMap<WorkspaceId, Activity>>>,
    Arc<Mutex<Vec<Arc<crate::model::event::Event>>>>,
);

impl Memory {
    /// The recorded events, as lines.
    fn events(&self) -> Vec<String> {
        let events = self.2.lock().unwrap();
        events
            .iter()
            .map(|event| {
                let actor = event.fact.actor.as_ref().map(|actor| format!(" [{actor}]")).unwrap_or_default();
                format!("{} {}{actor}", event.id, event.fact)
            })
            .collect()
    }
}

impl History for Memory {
    fn load(&self) -> BTreeMap<WorkspaceId, LastOutcome> {
        self.0.lock().unwrap().clone()
    }

    fn load_activity(&self) -> BTreeMap<WorkspaceId, Activity> {
        self.1.lock().unwrap().clone()
    }

    fn record_activity(&self, changed: Vec<(WorkspaceId, Activity)>) {
        self.1.lock().unwrap().extend(changed);
    }

    fn record(&self, id: &WorkspaceId, outcome: &LastOutcome) {
        self.0.lock().unwrap().insert(id.clone(), outcome.clone());
    }

    fn last_event(&self) -> u64 {
        self.2.lock().unwrap().last().map_or(0, |event| event.id)
    }

    fn record_events(&self, events: Vec<Arc<crate::model::event::Event>>) {
        self.2.lock().unwrap().extend(events);
    }

    fn prune_events(&self, before: Timestamp) {
        self.2.lock().unwrap().retain(|event| event.at >= before);
    }
}

fn id(name: &str) -> WorkspaceId {
    name.parse().unwrap()
}

/// Users are given as `dan` or, to start with the daemon, `+dan`.
fn manifest(users: &[&str], memory: &str) -> Arc<Manifest> {
    let user = |name: &&str| {
        let (name, auto) = name.strip_prefix('+').map_or((*name, false), |name| (name, true));
        format!(r#""{name}":{{"passwordFile":"/p","autoStart":{auto},"memoryLimit":"{memory}"}}"#)
    };
    let users: Vec<String> = users.iter().map(user).collect();
    let text = format!(r#"{{"version":1,"domain":"a.localhost","image":"x","users":{{{}}}}}"#, users.join(","));
    Arc::new(Manifest::parse(&text, &Machine { memory: 8 << 30, cpus: 4 }).0.unwrap())
}

/// A request by dan.
fn by_dan(verb: Verb) -> Cause {
    Cause::Requested(verb, Actor::User("dan".parse().unwrap()))
}

fn opened() -> Cause {
    Cause::Opened("dan".parse().unwrap())
}

fn with_images(users: &[(&str, &str)]) -> Arc<Manifest> {
    let user = |(name, image): &(&str, &str)| format!(r#""{name}":{{"passwordFile":"/p","image":"{image}"}}"#);
    let users: Vec<String> = users.iter().map(user).collect();
    let text = format!(r#"{{"version":1,"domain":"a.localhost","users":{{{}}}}}"#, users.join(","));
    Arc::new(Manifest::parse(&text, &Machine { memory: 8 << 30, cpus: 4 }).0.unwrap())
}

fn start_daemon(fake: &Fake, history: &Memory, users: &[&str]) -> Handle {
    let clock: fn() -> Timestamp = || 100;
    let layout = Layout { run: "/run/csm".into(), state: "/s".into(), share: "/share".into() };
    let (daemon, handle) = Daemon::new(fake.clone(), history.clone(), clock, layout, manifest(users, "1G"));
    tokio::spawn(daemon.run(std::future::pending()));
    handle
}

/// Waits until a workspace is in a state, and returns its view.
async fn until(handle: &Handle, name: &str, word: &str) -> Arc<view::View> {
    let mut snapshots = handle.follow();
    let reached =
        |snapshot: &Arc<Snapshot>| snapshot.workspaces.get(&id(name)).is_some_and(|view| view.state.word() == word);
    let found = tokio::time::timeout(Duration::from_secs(60), snapshots.wait_for(reached)).await;
    let snapshot = found.unwrap_or_else(|_| panic!("{name} never {word}: {:?}", handle.snapshot())).unwrap().clone();
    snapshot.workspaces[&id(name)].clone()
}

#[tokio::test(start_paused = true)]
async fn a_hundred_visits_start_a_workspace_once() {
    let fake = Fake::default();
    let handle = start_daemon(&fake, &Memory::default(), &["dan"]);
    for n in 0..100 {
        handle.request(id("dan"), Verb::Start, Cause::Recorded(format!("visit {n}"))).await.unwrap();
    }
    let view = until(&handle, "dan", "running").await;
    assert_eq!(view.reason, "visit 0");
    assert_eq!(fake.calls(), ["start dan"]);
    assert!(handle.request(id("eve"), Verb::Start, opened()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn running_workspaces_are_taken_over_and_undeclared_ones_removed() {
    let fake = Fake::default();
    fake.put("dan", true);
    fake.put("eve", true);
    let handle = start_daemon(&fake, &Memory::default(), &["dan"]);
    let view = until(&handle, "dan", "running").await;
    assert!(view.update_pending, "its container was created from another manifest");
    while fake.world().containers.contains_key(&id("eve")) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(fake.calls(), ["stop eve", "remove eve"]);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_first_observation_ends_with_its_result_or_error() {
    let fake = Fake::default();
    fake.put("dan", true);
    let handle = start_daemon(&fake, &Memory::default(), &["dan"]);
    handle.first_observation().await;
    assert_eq!(handle.snapshot().workspaces[&id("dan")].state.word(), "running");
    // An observation that fails ends it too.
    fake.world().unreachable = true;
    let handle = start_daemon(&fake, &Memory::default(), &["dan"]);
    handle.first_observation().await;
    assert_eq!(handle.snapshot().alarms, ["podman hangs"]);
}

#[tokio::test(start_paused = true)]
async fn a_workspace_that_is_already_starting_is_waited_for() {
    let fake = Fake::default();
    fake.put_phase("dan", Phase::Starting);
    let handle = start_daemon(&fake, &Memory::default(), &["dan"]);
    assert_eq!(until(&handle, "dan", "running").await.reason, "already starting when csm started");
    // Restarted outside csm.
    fake.world().gated = true;
    fake.put_phase("dan", Phase::Starting);
    until(&handle, "dan", "starting").await;
    fake.gate.notify_one();
    until(&handle, "dan", "running").await;
    assert_eq!(fake.calls(), ["start dan", "start dan"]);
}

#[tokio::test(start_paused = true)]
async fn a_workspace_started_outside_csm_keeps_running_after_an_exit_or_a_failure() {
    let fake = Fake::default();
    fake.world().fail = Some(RuntimeError::Refused("no such image".into()));
    let handle = start_daemon(&fake, &Memory::default(), &["+dan", "eve"]);
    until(&handle, "dan", "failed").await;
    // Until an observation has shown that it is down.
    tokio::time::sleep(RESYNC_INTERVAL).await;
    for name in ["dan", "eve"] {
        fake.put(name, true);
        assert_eq!(until(&handle, name, "running").await.reason, "started outside csm");
    }
    fake.put("eve", false);
    until(&handle, "eve", "failed").await;
    fake.put("eve", true);
    until(&handle, "eve", "running").await;
    tokio::time::sleep(RESYNC_INTERVAL * 3).await;
    assert_eq!(fake.calls(), ["start dan"]);
}

#[tokio::test(start_paused = true)]
async fn a_running_workspaces_warning_is_shown() {
    let fake = Fake::default();
    fake.put("dan", true);
    let handle = start_daemon(&fake, &Memory::default(), &["dan"]);
    until(&handle, "dan", "running").await;
    fake.put_phase("dan", runs("out of memory"));
    let mut snapshots = handle.follow();
    snapshots
        .wait_for(|snapshot| snapshot.workspaces[&id("dan")].failure.as_deref() == Some("out of memory"))
        .await
        .unwrap();
    assert_eq!(fake.calls(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_visit_thaws_a_frozen_workspace_and_a_stop_stops_it() {
    let fake = Fake::default();
    let handle = start_daemon(&fake, &Memory::default(), &["+dan"]);
    until(&handle, "dan", "running").await;
    for visit in ["first visit", "second visit"] {
        handle.request(id("dan"), Verb::Freeze, by_dan(Verb::Freeze)).await.unwrap();
        let view = until(&handle, "dan", "frozen").await;
        assert_eq!((view.reason.as_str(), view.settled), ("frozen by dan", true));
        tokio::time::sleep(RESYNC_INTERVAL * 2).await;
        handle.request(id("dan"), Verb::Start, Cause::Recorded(visit.into())).await.unwrap();
        assert_eq!(until(&handle, "dan", "running").await.reason, visit);
    }
    // Frozen and thawed outside csm.
    fake.put_phase("dan", Phase::Frozen { since: 9 });
    assert_eq!(until(&handle, "dan", "frozen").await.reason, "frozen outside csm");
    fake.put("dan", true);
    assert_eq!(until(&handle, "dan", "running").await.reason, "thawed outside csm");
    handle.request(id("dan"), Verb::Freeze, by_dan(Verb::Freeze)).await.unwrap();
    until(&handle, "dan", "frozen").await;
    handle.request(id("dan"), Verb::Stop, by_dan(Verb::Stop)).await.unwrap();
    until(&handle, "dan", "stopped").await;
    let expected = ["start", "freeze", "thaw", "freeze", "thaw", "freeze", "stop"].map(|verb| format!("{verb} dan"));
    assert_eq!(fake.calls(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_freeze_or_thaw_that_fails_says_why_and_changes_no_state() {
    let fake = Fake::default();
    let handle = start_daemon(&fake, &Memory::default(), &["+dan"]);
    until(&handle, "dan", "running").await;
    let mut snapshots = handle.follow();
    for (verb, state) in [(Verb::Freeze, "running"), (Verb::Start, "frozen")] {
        if state == "frozen" {
            fake.put_phase("dan", Phase::Frozen { since: 9 });
            until(&handle, "dan", "frozen").await;
        }
        fake.world().refusals = 1;
        handle.request(id("dan"), verb, Cause::Recorded("asked".into())).await.unwrap();
        snapshots
            .wait_for(|snapshot| snapshot.workspaces[&id("dan")].failure.as_deref() == Some("podman is slow"))
            .await
            .unwrap();
        tokio::time::sleep(RESYNC_INTERVAL * 2).await;
        assert_eq!(handle.snapshot().workspaces[&id("dan")].state.word(), state);
    }
    assert_eq!(fake.calls(), ["start dan", "freeze dan", "thaw dan"]);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_workspace_stays_frozen_over_a_restart_of_the_daemon() {
    let fake = Fake::default();
    fake.put_phase("dan", Phase::Frozen { since: 9 });
    let handle = start_daemon(&fake, &Memory::default(), &["dan"]);
    assert_eq!(until(&handle, "dan", "frozen").await.reason, "already frozen when csm started");
    tokio::time::sleep(RESYNC_INTERVAL * 2).await;
    assert_eq!(fake.calls(), Vec::<String>::new());
}

/// How often ten resyncs try to stop or remove an undeclared workspace that Podman keeps.
async fn tries(running: bool) -> usize {
    let fake = Fake::default();
    fake.put("eve", running);
    fake.world().refusals = 100;
    let _handle = start_daemon(&fake, &Memory::default(), &["dan"]);
    tokio::time::sleep(RESYNC_INTERVAL * 10).await;
    fake.calls().len()
}

#[tokio::test(start_paused = true)]
async fn each_resync_tries_again_to_remove_an_undeclared_workspace() {
    assert!((9..=11).contains(&tries(true).await), "stop");
    assert!((9..=11).contains(&tries(false).await), "remove");
}

#[tokio::test(start_paused = true)]
async fn a_changed_limit_takes_effect_only_at_the_next_start() {
    let fake = Fake::default();
    let handle = start_daemon(&fake, &Memory::default(), &["+dan"]);
    assert!(!until(&handle, "dan", "running").await.update_pending);
    handle.set_manifest(manifest(&["+dan"], "2G"));
    let mut snapshots = handle.follow();
    snapshots.wait_for(|snapshot| snapshot.workspaces[&id("dan")].update_pending).await.unwrap();
    assert_eq!(fake.calls(), ["start dan"]);
    handle.request(id("dan"), Verb::Restart, by_dan(Verb::Restart)).await.unwrap();
    snapshots.wait_for(|snapshot| !snapshot.workspaces[&id("dan")].update_pending).await.unwrap();
    assert_eq!(until(&handle, "dan", "running").await.reason, "restarted by dan");
    assert_eq!(fake.calls(), ["start dan", "stop dan", "start dan"]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_says_why_and_is_not_tried_again() {
    let fake = Fake::default();
    fake.world().fail = Some(RuntimeError::Failed { reason: "no such image".into(), log: vec!["last words".into()] });
    let history = Memory::default();
    let handle = start_daemon(&fake, &history, &["+dan", "+eve"]);
    let view = until(&handle, "dan", "failed").await;
    assert_eq!((view.failure.as_deref(), view.log.as_slice()), (Some("no such image"), &["last words".to_owned()][..]));
    until(&handle, "eve", "failed").await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(fake.calls().len(), 2, "{:?}", fake.calls());
    assert!(history.load()[&id("dan")].failed);
    fake.world().fail = None;
    handle.request(id("dan"), Verb::Start, Cause::Recorded("again".into())).await.unwrap();
    assert_eq!(until(&handle, "dan", "running").await.failure, None);
}

#[tokio::test(start_paused = true)]
async fn a_workspace_that_exits_is_shown_as_failed_and_not_restarted() {
    let fake = Fake::default();
    let handle = start_daemon(&fake, &Memory::default(), &["dan"]);
    handle.request(id("dan"), Verb::Start, opened()).await.unwrap();
    until(&handle, "dan", "running").await;
    fake.put("dan", false);
    let view = until(&handle, "dan", "failed").await;
    assert_eq!(view.reason, "exited with code 7");
    let mut snapshots = handle.follow();
    snapshots.wait_for(|snapshot| snapshot.workspaces[&id("dan")].log == ["its last words"]).await.unwrap();
    assert_eq!(fake.calls(), ["start dan"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_interrupts_a_start_and_stops_what_it_created() {
    let fake = Fake::default();
    fake.world().gated = true;
    let handle = start_daemon(&fake, &Memory::default(), &["dan"]);
    handle.request(id("dan"), Verb::Start, opened()).await.unwrap();
    until(&handle, "dan", "starting").await;
    handle.request(id("dan"), Verb::Stop, by_dan(Verb::Stop)).await.unwrap();
    assert_eq!(until(&handle, "dan", "stopped").await.reason, "stopped by dan");
    // The container had just started to run when the stop interrupted the start.
    fake.put("dan", true);
    while !fake.calls().contains(&"stop dan".to_owned()) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// A daemon in which dan's workspace runs and a stop or restart of it has failed.
async fn with_failed_stop(fake: &Fake, verb: Verb) -> Handle {
    let handle = start_daemon(fake, &Memory::default(), &["+dan"]);
    until(&handle, "dan", "running").await;
    fake.world().refusals = 1;
    handle.request(id("dan"), verb, Cause::Recorded("asked by dan".into())).await.unwrap();
    until(&handle, "dan", "failed").await;
    // Observations do not change that.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(handle.snapshot().workspaces[&id("dan")].state, State::Failed);
    handle
}

#[tokio::test(start_paused = true)]
async fn a_workspace_that_a_failed_stop_stops_late_is_not_restarted() {
    let fake = Fake::default();
    let handle = with_failed_stop(&fake, Verb::Stop).await;
    fake.put("dan", false);
    let view = until(&handle, "dan", "stopped").await;
    assert_eq!((view.reason.as_str(), view.failure.as_deref()), ("asked by dan", None));
    tokio::time::sleep(RESYNC_INTERVAL * 3).await;
    assert_eq!(fake.calls(), ["start dan", "stop dan"]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_stop_says_why_and_the_next_resync_tries_again() {
    let fake = Fake::default();
    let handle = with_failed_stop(&fake, Verb::Stop).await;
    let view = until(&handle, "dan", "failed").await;
    assert_eq!((view.reason.as_str(), view.failure.as_deref()), ("stopping failed", Some("podman is slow")));
    assert!(view.settled, "a request that waits for the outcome gets it");
    assert!(view.may_run, "Ctrl-C waits for it, and warns");
    assert_eq!(fake.calls(), ["start dan", "stop dan"]);
    let view = until(&handle, "dan", "stopped").await;
    assert_eq!((view.reason.as_str(), view.failure.as_deref()), ("asked by dan", None));
    assert!(!view.may_run);
    tokio::time::sleep(RESYNC_INTERVAL * 3).await;
    assert_eq!(fake.calls(), ["start dan", "stop dan", "stop dan"]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_whose_stop_failed_says_why_and_restarts_at_the_next_resync() {
    let fake = Fake::default();
    let handle = with_failed_stop(&fake, Verb::Restart).await;
    let view = until(&handle, "dan", "failed").await;
    assert_eq!((view.failure.as_deref(), view.settled), (Some("podman is slow"), true));
    assert_eq!(until(&handle, "dan", "running").await.reason, "asked by dan");
    assert_eq!(fake.calls(), ["start dan", "stop dan", "stop dan", "start dan"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_failed_stop_a_request_stops_the_workspace_or_keeps_it_running() {
    let fake = Fake::default();
    let handle = with_failed_stop(&fake, Verb::Stop).await;
    handle.request(id("dan"), Verb::Start, opened()).await.unwrap();
    assert_eq!(until(&handle, "dan", "running").await.failure, None);
    fake.world().refusals = 1;
    handle.request(id("dan"), Verb::Stop, Cause::Recorded("stopped".into())).await.unwrap();
    until(&handle, "dan", "failed").await;
    handle.request(id("dan"), Verb::Stop, Cause::Recorded("immediately".into())).await.unwrap();
    let stopped = tokio::time::timeout(Duration::from_secs(1), until(&handle, "dan", "stopped")).await;
    assert_eq!(stopped.unwrap().reason, "immediately");
    assert_eq!(fake.calls(), ["start dan", "stop dan", "start dan", "stop dan", "stop dan"]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_during_a_start_starts_again() {
    let fake = Fake::default();
    fake.world().gated = true;
    let handle = start_daemon(&fake, &Memory::default(), &["dan"]);
    handle.request(id("dan"), Verb::Start, opened()).await.unwrap();
    until(&handle, "dan", "starting").await;
    fake.world().gated = false;
    handle.request(id("dan"), Verb::Restart, Cause::Recorded("again".into())).await.unwrap();
    assert_eq!(until(&handle, "dan", "running").await.reason, "again");
    // If the first start has already created a container, that is not taken for the second one's.
    let fake = Fake::default();
    fake.world().gated = true;
    let handle = start_daemon(&fake, &Memory::default(), &["dan"]);
    handle.request(id("dan"), Verb::Start, opened()).await.unwrap();
    until(&handle, "dan", "starting").await;
    fake.put_phase("dan", Phase::Starting);
    fake.world().gated = false;
    handle.request(id("dan"), Verb::Restart, Cause::Recorded("again".into())).await.unwrap();
    assert_eq!(until(&handle, "dan", "running").await.reason, "again");
    assert_eq!(fake.calls(), ["start dan", "stop dan", "start dan"]);
}

/// A daemon that finds dan's workspace starting, and whose runtime never reaches its editor.
async fn with_unreachable_editor(fake: &Fake) -> Handle {
    fake.put_phase("dan", Phase::Starting);
    fake.world().fail = Some(RuntimeError::StillRunning("code-server does not answer".into()));
    let handle = start_daemon(fake, &Memory::default(), &["dan"]);
    until(&handle, "dan", "failed").await;
    tokio::time::sleep(RESYNC_INTERVAL * 3).await;
    handle
}

#[tokio::test(start_paused = true)]
async fn a_workspace_with_an_unreachable_editor_is_neither_stopped_nor_retried() {
    let fake = Fake::default();
    let handle = with_unreachable_editor(&fake).await;
    let view = until(&handle, "dan", "failed").await;
    assert_eq!(
        (view.failure.as_deref(), view.settled, view.may_run),
        (Some("code-server does not answer"), true, true)
    );
    assert_eq!(fake.calls(), ["start dan"]);
    // A request tries again, and csm notices if the editor can be reached after all.
    fake.world().fail = None;
    handle.request(id("dan"), Verb::Start, opened()).await.unwrap();
    let view = until(&handle, "dan", "running").await;
    assert_eq!((view.reason.as_str(), view.failure.as_deref()), ("opened by dan", None));
    assert_eq!(fake.calls(), ["start dan", "start dan"]);

    let fake = Fake::default();
    let handle = with_unreachable_editor(&fake).await;
    fake.put("dan", true);
    until(&handle, "dan", "running").await;
    handle.request(id("dan"), Verb::Stop, by_dan(Verb::Stop)).await.unwrap();
    until(&handle, "dan", "stopped").await;
    assert_eq!(fake.calls(), ["start dan", "stop dan"]);
}

#[tokio::test(start_paused = true)]
async fn a_workspace_with_an_unreachable_editor_can_be_restarted_and_can_exit() {
    let fake = Fake::default();
    let handle = with_unreachable_editor(&fake).await;
    fake.world().fail = None;
    handle.request(id("dan"), Verb::Restart, by_dan(Verb::Restart)).await.unwrap();
    assert_eq!(until(&handle, "dan", "running").await.reason, "restarted by dan");
    assert_eq!(fake.calls(), ["start dan", "stop dan", "start dan"]);

    let fake = Fake::default();
    let handle = with_unreachable_editor(&fake).await;
    fake.put("dan", false);
    let mut snapshots = handle.follow();
    let exited = |snapshot: &Arc<Snapshot>| snapshot.workspaces[&id("dan")].reason == "exited with code 7";
    let view = snapshots.wait_for(exited).await.unwrap().workspaces[&id("dan")].clone();
    assert_eq!((view.failure.as_deref(), view.may_run), (None, false));
    assert_eq!(fake.calls(), ["start dan"]);
}

#[tokio::test(start_paused = true)]
async fn text_from_outside_csm_is_escaped_and_the_last_log_has_a_size_limit() {
    const RAW: &str = "a\u{1b}[31m\nb\u{202e}";
    const SHOWN: &str = r"a\u{1b}[31m b\u{202e}";
    let fake = Fake::default();
    fake.world().printed = Some((0..40).map(|n| format!("{}{n}", "<".repeat(1000))).collect());
    fake.world().fail = Some(RuntimeError::Refused(RAW.into()));
    let history = Memory::default();
    history.record(&id("eve"), &LastOutcome { failed: true, reason: RAW.into(), at: 42 });
    let handle = start_daemon(&fake, &history, &["dan", "eve"]);
    handle.alarm("manifest", Some(RAW.to_owned()));
    handle.request(id("dan"), Verb::Start, opened()).await.unwrap();
    assert_eq!(until(&handle, "dan", "failed").await.failure.as_deref(), Some(SHOWN));
    assert_eq!(until(&handle, "eve", "failed").await.reason, SHOWN);
    assert_eq!(handle.snapshot().alarms, [SHOWN]);
    fake.put("eve", true);
    until(&handle, "eve", "running").await;
    fake.put_phase("eve", Phase::Exited { failed: true, reason: Some(RAW.into()) });
    assert_eq!(until(&handle, "eve", "failed").await.reason, SHOWN);
    let mut snapshots = handle.follow();
    let snapshot =
        snapshots.wait_for(|snapshot| !snapshot.workspaces[&id("eve")].log.is_empty()).await.unwrap().clone();
    let log = &snapshot.workspaces[&id("eve")].log;
    assert_eq!((log.len(), log[0].as_str()), (4, "… (37 earlier lines left out)"));
    assert!(log[3].ends_with("<39"));
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_hangs_raises_an_alarm_and_changes_no_state() {
    let fake = Fake::default();
    let handle = start_daemon(&fake, &Memory::default(), &["+dan"]);
    until(&handle, "dan", "running").await;
    fake.world().unreachable = true;
    let mut snapshots = handle.follow();
    let alarmed = snapshots.wait_for(|snapshot| snapshot.alarms == ["podman hangs"]).await.unwrap().clone();
    assert_eq!(alarmed.workspaces[&id("dan")].state.word(), "running");
    fake.world().unreachable = false;
    snapshots.wait_for(|snapshot| snapshot.alarms.is_empty()).await.unwrap();
    assert_eq!(fake.calls(), ["start dan"]);
}

#[tokio::test(start_paused = true)]
async fn usage_is_measured_only_while_there_are_watchers() {
    let fake = Fake::default();
    let handle = start_daemon(&fake, &Memory::default(), &["dan"]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(fake.calls(), Vec::<String>::new());
    let watching = handle.watch(Measure::Usage);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let measured = fake.calls().len();
    assert!(measured >= 3, "{measured}");
    drop(watching);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(fake.calls().len() <= measured + 1);
}

fn measurements(fake: &Fake) -> usize {
    fake.calls().iter().filter(|call| *call == "disk").count()
}

#[tokio::test(start_paused = true)]
async fn disk_space_is_measured_once_a_minute_and_only_for_dashboards() {
    let fake = Fake::default();
    let handle = start_daemon(&fake, &Memory::default(), &["dan"]);
    let watching = handle.watch(Measure::Usage);
    tokio::time::sleep(DISK_INTERVAL * 3).await;
    drop(watching);
    assert_eq!(measurements(&fake), 0, "csm status measures no disk space");
    for look in 0..10 {
        let watching = handle.watch(Measure::UsageAndDisk);
        tokio::time::sleep(DISK_INTERVAL / 10).await;
        assert_eq!(handle.snapshot().workspaces[&id("dan")].disk, Some(0), "look {look}");
        drop(watching);
    }
    let _watching = handle.watch(Measure::UsageAndDisk);
    tokio::time::sleep(DISK_INTERVAL * 5).await;
    assert!((5..=7).contains(&measurements(&fake)), "{}", measurements(&fake));
}

#[tokio::test(start_paused = true)]
async fn a_slow_disk_is_measured_once_and_does_not_delay_the_usage() {
    let fake = Fake::default();
    fake.world().disk_gated = true;
    let handle = start_daemon(&fake, &Memory::default(), &["+dan"]);
    until(&handle, "dan", "running").await;
    let _watching = handle.watch(Measure::UsageAndDisk);
    tokio::time::sleep(SAMPLE_INTERVAL * 100).await;
    let view = handle.snapshot().workspaces[&id("dan")].clone();
    assert_eq!((view.usage.map(|usage| usage.memory), view.disk), (Some(7), None));
    assert_eq!(measurements(&fake), 1);
    fake.world().disk = 3;
    fake.disk_gate.notify_one();
    tokio::time::sleep(SAMPLE_INTERVAL).await;
    assert_eq!(handle.snapshot().workspaces[&id("dan")].disk, Some(3));
}

#[tokio::test(start_paused = true)]
async fn at_most_four_workspaces_are_created_at_a_time() {
    let fake = Fake::default();
    fake.world().gated = true;
    let names = ["+a", "+b", "+c", "+d", "+e", "+f"];
    let handle = start_daemon(&fake, &Memory::default(), &names);
    let mut snapshots = handle.follow();
    let queued = |snapshot: &Arc<Snapshot>| {
        snapshot.workspaces.values().filter(|view| view.state == State::Starting(Progress::Queued)).count()
    };
    snapshots.wait_for(|snapshot| fake.calls().len() == 4 && queued(snapshot) == 2).await.unwrap();
    for _ in 0..names.len() {
        fake.gate.notify_one();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for name in names {
        until(&handle, &name[1..], "running").await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_reason_of_a_stop_survives_a_restart_of_the_daemon() {
    let history = Memory::default();
    history.record(&id("dan"), &LastOutcome { failed: false, reason: "stopped by dan".into(), at: 42 });
    let handle = start_daemon(&Fake::default(), &history, &["dan"]);
    let view = until(&handle, "dan", "stopped").await;
    assert_eq!((view.reason.as_str(), view.at), ("stopped by dan", 42));
}

/// A change during an observation may be missing from its result, so another observation follows.
#[tokio::test(start_paused = true)]
async fn a_change_during_an_observation_is_observed_too() {
    let fake = Fake::default();
    let handle = start_daemon(&fake, &Memory::default(), &["dan"]);
    handle.first_observation().await;
    fake.world().observe_gated = true;
    fake.changed.notify_one();
    while fake.world().observations < 2 {
        tokio::task::yield_now().await;
    }
    // The observation has read the containers, but has not returned yet.
    fake.put("dan", true);
    // The daemon is notified of the change before the observation returns.
    handle.ping().await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    fake.world().observe_gated = false;
    fake.observe_gate.notify_one();
    let seen = tokio::time::timeout(Duration::from_secs(1), until(&handle, "dan", "running")).await;
    assert_eq!(seen.expect("not only at the next resync").reason, "started outside csm");
}

#[tokio::test(start_paused = true)]
async fn requests_do_not_delay_observations() {
    let fake = Fake::default();
    let handle = start_daemon(&fake, &Memory::default(), &["dan", "eve"]);
    handle.first_observation().await;
    let busy = handle.clone();
    let requests = tokio::spawn(async move {
        loop {
            for verb in [Verb::Start, Verb::Stop] {
                busy.request(id("eve"), verb, by_dan(verb)).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    fake.put("dan", true);
    // The paused clock does not advance while tasks are busy, so this counts turns instead of time.
    for _ in 0..10_000 {
        if handle.snapshot().workspaces[&id("dan")].state.word() == "running" {
            requests.abort();
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("dan was never observed");
}

#[tokio::test(start_paused = true)]
async fn slow_pulls_do_not_delay_other_starts() {
    let fake = Fake::default();
    let (daemon, handle) = Daemon::new(
        fake.clone(),
        Memory::default(),
        || 100,
        Layout { run: "/run/csm".into(), state: "/s".into(), share: "/share".into() },
        with_images(&[("a", "slow"), ("b", "slow"), ("c", "slow"), ("d", "slow"), ("dan", "x")]),
    );
    tokio::spawn(daemon.run(std::future::pending()));
    for name in ["a", "b", "c", "d", "dan"] {
        handle.request(id(name), Verb::Start, opened()).await.unwrap();
    }
    until(&handle, "dan", "running").await;
    let view = until(&handle, "a", "starting").await;
    assert_eq!(view.state, State::Starting(Progress::Pulling { percent: None }));
    // A stop interrupts a pull.
    handle.request(id("a"), Verb::Stop, by_dan(Verb::Stop)).await.unwrap();
    until(&handle, "a", "stopped").await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_step_is_a_failure() {
    let fake = Fake::default();
    fake.world().panics = true;
    let handle = start_daemon(&fake, &Memory::default(), &["dan"]);
    handle.request(id("dan"), Verb::Start, opened()).await.unwrap();
    let view = until(&handle, "dan", "failed").await;
    assert!(view.failure.as_deref().is_some_and(|failure| failure.contains("internal error")), "{view:?}");
    assert!(view.settled);
}

#[tokio::test(start_paused = true)]
async fn a_workspace_that_is_removed_during_its_start_is_stopped() {
    let fake = Fake::default();
    fake.world().gated = true;
    let handle = start_daemon(&fake, &Memory::default(), &["dan", "+eve"]);
    until(&handle, "eve", "starting").await;
    handle.set_manifest(manifest(&["dan"], "1G"));
    // Its container appears after that.
    fake.put("eve", true);
    while fake.world().containers.contains_key(&id("eve")) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(fake.calls(), ["start eve", "stop eve", "remove eve"]);
}

mod autostop {
    use std::time::Duration;

    use super::*;
    use crate::activity::{AgentState, Claim, Report, ReportResponse, Sample};

    /// Reports this sample every 30 s, until the workspace is in the state, or for some minutes.
    async fn report(handle: &Handle, sample: &Sample, minutes: u64, until: &str) -> bool {
        for _ in 0..minutes * 2 {
            tokio::time::sleep(Duration::from_secs(30)).await;
            let sample = Sample { elapsed: 30_000, ..sample.clone() };
            handle.report(id("dan"), Report { sample: Some(sample), claims: Vec::new() }).await.unwrap();
            handle.ping().await;
            if state(handle) == until {
                return true;
            }
        }
        false
    }

    fn state(handle: &Handle) -> &'static str {
        handle.snapshot().workspaces[&id("dan")].state.word()
    }

    async fn claim(handle: &Handle, claim: Claim) -> ReportResponse {
        handle.report(id("dan"), Report { sample: None, claims: vec![claim] }).await.unwrap()
    }

    async fn running(fake: &Fake, history: &Memory) -> Handle {
        let handle = start_daemon(fake, history, &["dan"]);
        handle.request(id("dan"), Verb::Start, opened()).await.unwrap();
        let running = |snapshot: &Arc<Snapshot>| snapshot.workspaces[&id("dan")].state.word() == "running";
        handle.follow().wait_for(running).await.unwrap();
        handle
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_workspace_is_frozen_then_stopped_each_with_its_reason() {
        let (fake, history) = (Fake::default(), Memory::default());
        let handle = running(&fake, &history).await;
        assert!(report(&handle, &Sample::default(), 40, "frozen").await);
        assert_eq!(handle.snapshot().workspaces[&id("dan")].reason, "idle for 30 min");
        tokio::time::sleep(Duration::from_secs(7 * 3600 + 29 * 60)).await;
        assert_eq!(state(&handle), "frozen");
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(state(&handle), "stopped");
        assert_eq!(handle.snapshot().workspaces[&id("dan")].reason, "idle for 8 h 0 min");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_at_work_is_never_frozen_and_its_verdict_is_shown() {
        let (fake, history) = (Fake::default(), Memory::default());
        let handle = running(&fake, &history).await;
        let agent = |state| Claim::Agent { id: "codex".into(), name: None, state, pid: Some(7) };
        let response = claim(&handle, agent(AgentState::Working)).await;
        assert_eq!(response.verdict.to_string(), "kept: codex is working (0 s)");
        assert!(!report(&handle, &Sample::default(), 20 * 60, "frozen").await);
        claim(&handle, agent(AgentState::Done)).await;
        assert!(report(&handle, &Sample::default(), 31, "frozen").await);
    }

    #[tokio::test(start_paused = true)]
    async fn announcements_reach_the_sensor_and_its_reports_come_sooner() {
        let (fake, history) = (Fake::default(), Memory::default());
        let handle = running(&fake, &history).await;
        let mut announced = Vec::new();
        let mut soon = 0;
        while state(&handle) == "running" {
            tokio::time::sleep(Duration::from_secs(30)).await;
            let sample = Sample { elapsed: 30_000, ..Sample::default() };
            let response = handle.report(id("dan"), Report { sample: Some(sample), claims: Vec::new() }).await.unwrap();
            announced.extend(response.announcement);
            soon += usize::from(response.next_report == 10);
            handle.ping().await;
        }
        let text =
            |left| format!("this workspace freezes in {left}: nothing works in it; type something, or run \"keep 2h\"");
        assert_eq!(announced, [text("10 min"), text("2 min")]);
        assert!(soon > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_visit_and_keep_start_the_clocks_again() {
        let (fake, history) = (Fake::default(), Memory::default());
        let handle = running(&fake, &history).await;
        assert!(!report(&handle, &Sample::default(), 29, "frozen").await);
        handle.touch(id("dan"));
        assert!(!report(&handle, &Sample::default(), 29, "frozen").await);
        handle.keep(id("dan"), Duration::from_secs(7200), "kept by dan".into()).await.unwrap();
        assert!(!report(&handle, &Sample::default(), 140, "frozen").await);
        let too_long = handle.keep(id("dan"), Duration::from_secs(25 * 3600), "kept by dan".into()).await;
        assert!(too_long.unwrap_err().to_string().contains("autostop.maxLease"));
        assert!(report(&handle, &Sample::default(), 20, "frozen").await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_killed_csm_loses_no_lease_and_at_most_a_minute_of_a_clock() {
        let (fake, history) = (Fake::default(), Memory::default());
        let handle = running(&fake, &history).await;
        claim(&handle, Claim::Lease { id: "x".into(), reason: Some("deploy".into()), seconds: 3600 }).await;
        assert!(!report(&handle, &Sample::default(), 30, "frozen").await);
        // The first daemon is not asked to stop; the second one takes over from what is stored.
        let again = start_daemon(&fake, &history, &["dan"]);
        again.first_observation().await;
        again.ping().await;
        let verdict = again.snapshot().workspaces[&id("dan")].activity.clone().unwrap();
        let text = verdict.to_string();
        assert!(
            text.starts_with("kept: deploy (lease for another 30 min") || text.contains("for another 31 min"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_workspace_that_its_owner_opens_is_not_frozen_again_immediately() {
        let (fake, history) = (Fake::default(), Memory::default());
        let handle = running(&fake, &history).await;
        assert!(report(&handle, &Sample::default(), 31, "frozen").await);
        handle.request(id("dan"), Verb::Start, opened()).await.unwrap();
        assert!(!report(&handle, &Sample::default(), 29, "frozen").await);
        assert!(report(&handle, &Sample::default(), 2, "frozen").await);
    }
}

mod events {
    use super::*;
    use crate::activity::{Claim, Report, Sample};
    use crate::model::event::{Fact, Kind, Line};

    async fn report(handle: &Handle, sample: Sample, claims: Vec<Claim>) {
        let report = Report { sample: Some(Sample { elapsed: 30_000, ..sample }), claims };
        handle.report(id("dan"), report).await.unwrap();
        handle.ping().await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_main_flows_with_actor_and_cause() {
        let (fake, history) = (Fake::default(), Memory::default());
        let handle = start_daemon(&fake, &history, &["dan"]);
        handle.request(id("dan"), Verb::Start, opened()).await.unwrap();
        until(&handle, "dan", "running").await;
        while handle.snapshot().workspaces[&id("dan")].state.word() != "frozen" {
            tokio::time::sleep(Duration::from_secs(30)).await;
            report(&handle, Sample::default(), Vec::new()).await;
        }
        handle.request(id("dan"), Verb::Start, opened()).await.unwrap();
        until(&handle, "dan", "running").await;
        handle.set_manifest(manifest(&["dan"], "2G"));
        handle.ping().await;
        handle.request(id("dan"), Verb::Restart, Cause::Requested(Verb::Restart, Actor::CommandLine)).await.unwrap();
        let restarted = |snapshot: &Arc<Snapshot>| {
            let view = &snapshot.workspaces[&id("dan")];
            view.reason == "restarted by the command line" && view.state.word() == "running"
        };
        handle.follow().wait_for(restarted).await.unwrap();
        let lease = |seconds| Claim::Lease { id: "x".into(), reason: Some("make\nworld\u{1b}".into()), seconds };
        report(&handle, Sample::default(), vec![lease(3600), lease(999_999)]).await;
        report(&handle, Sample::default(), vec![lease(3600)]).await;
        handle.request(id("dan"), Verb::Stop, by_dan(Verb::Stop)).await.unwrap();
        until(&handle, "dan", "stopped").await;
        fake.world().fail = Some(RuntimeError::Refused("no such image".into()));
        handle.request(id("dan"), Verb::Start, opened()).await.unwrap();
        until(&handle, "dan", "failed").await;
        fake.world().fail = None;
        fake.put("dan", true);
        until(&handle, "dan", "running").await;
        fake.put("dan", false);
        until(&handle, "dan", "failed").await;
        handle.ping().await;
        insta::assert_snapshot!(history.events().join("\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_that_fails_again_and_again_is_one_event() {
        let (fake, history) = (Fake::default(), Memory::default());
        let handle = start_daemon(&fake, &history, &["+dan"]);
        until(&handle, "dan", "running").await;
        fake.world().refusals = 10;
        handle.request(id("dan"), Verb::Stop, by_dan(Verb::Stop)).await.unwrap();
        tokio::time::sleep(RESYNC_INTERVAL * 12).await;
        assert_eq!(fake.calls().iter().filter(|call| *call == "stop dan").count(), 11);
        until(&handle, "dan", "stopped").await;
        handle.ping().await;
        let expected = [
            "1 dan: started: autoStart is set",
            "2 dan: failed (stopped by dan): podman is slow [dan]",
            "3 dan: stopped by dan [dan]",
        ];
        assert_eq!(history.events(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn what_runs_when_csm_starts_is_no_event_and_numbers_ascend_over_restarts() {
        let (fake, history) = (Fake::default(), Memory::default());
        let first = start_daemon(&fake, &history, &["dan"]);
        first.request(id("dan"), Verb::Start, opened()).await.unwrap();
        until(&first, "dan", "running").await;
        first.ping().await;
        let second = start_daemon(&fake, &history, &["dan"]);
        until(&second, "dan", "running").await;
        second.request(id("dan"), Verb::Stop, by_dan(Verb::Stop)).await.unwrap();
        until(&second, "dan", "stopped").await;
        second.ping().await;
        let expected = ["1 dan: started: opened by dan [dan]", "2 dan: stopped by dan [dan]"];
        assert_eq!(history.events()[..2], expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_owners_events_is_limited_and_hides_no_others() {
        let (fake, history) = (Fake::default(), Memory::default());
        let handle = start_daemon(&fake, &history, &["dan", "eve"]);
        let refused = || Kind::ClaimRefused { failure: Line::new("too long") };
        for _ in 0..10_000 {
            handle.record(Fact::of_workspace(id("dan"), refused()));
            handle.record(Fact::of_user(None, Kind::SignInRefused { source: Line::new("::1") }));
        }
        handle.record(Fact::of_workspace(id("eve"), refused()));
        handle.record(Fact::new(Kind::ManifestApplied { users: 2 }));
        handle.ping().await;
        let count = |part: &str| history.events().iter().filter(|event| event.contains(part)).count();
        assert_eq!((count("dan:"), count("sign-in refused"), count("eve:"), count("applied")), (200, 200, 1, 1));
        tokio::time::sleep(Duration::from_secs(600)).await;
        for _ in 0..10 {
            handle.record(Fact::of_workspace(id("dan"), refused()));
        }
        handle.ping().await;
        assert_eq!(count("dan:"), 202);
    }

    #[tokio::test(start_paused = true)]
    async fn a_samples_figures_are_kept_for_a_workspaces_page() {
        let (fake, history) = (Fake::default(), Memory::default());
        let handle = start_daemon(&fake, &history, &["dan"]);
        handle.request(id("dan"), Verb::Start, opened()).await.unwrap();
        until(&handle, "dan", "running").await;
        report(&handle, Sample { memory: 5, cpu: 3000, ..Sample::default() }, Vec::new()).await;
        let figures = handle.figures(id("dan")).await;
        assert_eq!(figures.iter().map(|figure| (figure.memory, figure.cpu())).collect::<Vec<_>>(), [(5, 100)]);
        assert!(handle.figures(id("eve")).await.is_empty());
    }
}
