use std::sync::Mutex;

use super::*;
use crate::model::manifest::Machine;
use crate::model::workspace::{State, Timestamp};
use crate::plan::{Actor, Phase};
use crate::ports::LastOutcome;
use crate::ports::fake::{Fake, runs};

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<WorkspaceId, LastOutcome>>>);

impl History for Memory {
    fn load(&self) -> BTreeMap<WorkspaceId, LastOutcome> {
        self.0.lock().unwrap().clone()
    }

    fn record(&self, id: &WorkspaceId, outcome: &LastOutcome) {
        self.0.lock().unwrap().insert(id.clone(), outcome.clone());
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

fn begin(fake: &Fake, history: &Memory, users: &[&str]) -> Handle {
    let clock: fn() -> Timestamp = || 100;
    let layout = Layout { run: "/run/csm".into(), state: "/s".into(), share: "/share".into() };
    let (daemon, handle) = Daemon::new(fake.clone(), history.clone(), clock, layout, manifest(users, "1G"));
    tokio::spawn(daemon.run(std::future::pending()));
    handle
}

/// Waits for the picture in which a workspace is in a state, and returns its reason.
async fn until(handle: &Handle, name: &str, word: &str) -> Arc<view::View> {
    let mut pictures = handle.follow();
    let there =
        |picture: &Arc<Snapshot>| picture.workspaces.get(&id(name)).is_some_and(|view| view.state.word() == word);
    let found = tokio::time::timeout(Duration::from_secs(60), pictures.wait_for(there)).await;
    let picture = found.unwrap_or_else(|_| panic!("{name} never {word}: {:?}", handle.snapshot())).unwrap().clone();
    picture.workspaces[&id(name)].clone()
}

#[tokio::test(start_paused = true)]
async fn a_hundred_visits_start_it_once() {
    let fake = Fake::default();
    let handle = begin(&fake, &Memory::default(), &["dan"]);
    for n in 0..100 {
        handle.act(id("dan"), Verb::Start, Cause::Recorded(format!("visit {n}"))).await.unwrap();
    }
    let view = until(&handle, "dan", "running").await;
    assert_eq!(view.reason, "visit 0");
    assert_eq!(fake.calls(), ["start dan"]);
    assert!(handle.act(id("eve"), Verb::Start, opened()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_taken_over_and_what_is_not_declared_goes() {
    let fake = Fake::default();
    fake.put("dan", true);
    fake.put("eve", true);
    let handle = begin(&fake, &Memory::default(), &["dan"]);
    let view = until(&handle, "dan", "running").await;
    assert!(view.update_pending, "it was made from another manifest");
    while fake.world().containers.contains_key(&id("eve")) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(fake.calls(), ["stop eve", "remove eve"]);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_it_gets_the_first_picture_that_is_true() {
    let fake = Fake::default();
    fake.put("dan", true);
    let handle = begin(&fake, &Memory::default(), &["dan"]);
    handle.observed().await;
    assert_eq!(handle.snapshot().workspaces[&id("dan")].state.word(), "running");
    // Or what keeps it away.
    fake.world().unreachable = true;
    let handle = begin(&fake, &Memory::default(), &["dan"]);
    handle.observed().await;
    assert_eq!(handle.snapshot().alarms, ["podman hangs"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_being_started_is_waited_for() {
    let fake = Fake::default();
    fake.put_phase("dan", Phase::Starting);
    let handle = begin(&fake, &Memory::default(), &["dan"]);
    assert_eq!(until(&handle, "dan", "running").await.reason, "already starting when csm started");
    // Restarted by somebody else.
    fake.world().gated = true;
    fake.put_phase("dan", Phase::Starting);
    until(&handle, "dan", "starting").await;
    fake.gate.notify_one();
    until(&handle, "dan", "running").await;
    assert_eq!(fake.calls(), ["start dan", "start dan"]);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_starts_is_kept_after_an_end_or_a_failure() {
    let fake = Fake::default();
    fake.world().fail = Some(RuntimeError::Refused("no such image".into()));
    let handle = begin(&fake, &Memory::default(), &["+dan", "eve"]);
    until(&handle, "dan", "failed").await;
    // It is down once it was seen to be.
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
async fn what_went_wrong_in_one_that_runs_on_is_said() {
    let fake = Fake::default();
    fake.put("dan", true);
    let handle = begin(&fake, &Memory::default(), &["dan"]);
    until(&handle, "dan", "running").await;
    fake.put_phase("dan", runs("memory ran out"));
    let mut pictures = handle.follow();
    pictures
        .wait_for(|picture| picture.workspaces[&id("dan")].failure.as_deref() == Some("memory ran out"))
        .await
        .unwrap();
    assert_eq!(fake.calls(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_is_frozen_goes_on_with_a_visit_and_can_be_stopped() {
    let fake = Fake::default();
    let handle = begin(&fake, &Memory::default(), &["+dan"]);
    until(&handle, "dan", "running").await;
    for visit in ["first visit", "second visit"] {
        handle.act(id("dan"), Verb::Freeze, by_dan(Verb::Freeze)).await.unwrap();
        let view = until(&handle, "dan", "frozen").await;
        assert_eq!((view.reason.as_str(), view.settled), ("frozen by dan", true));
        tokio::time::sleep(RESYNC_INTERVAL * 2).await;
        handle.act(id("dan"), Verb::Start, Cause::Recorded(visit.into())).await.unwrap();
        assert_eq!(until(&handle, "dan", "running").await.reason, visit);
    }
    // Somebody else may do it too.
    fake.put_phase("dan", Phase::Frozen { since: 9 });
    assert_eq!(until(&handle, "dan", "frozen").await.reason, "frozen outside csm");
    fake.put("dan", true);
    assert_eq!(until(&handle, "dan", "running").await.reason, "thawed outside csm");
    handle.act(id("dan"), Verb::Freeze, by_dan(Verb::Freeze)).await.unwrap();
    until(&handle, "dan", "frozen").await;
    handle.act(id("dan"), Verb::Stop, by_dan(Verb::Stop)).await.unwrap();
    until(&handle, "dan", "stopped").await;
    let expected = ["start", "freeze", "thaw", "freeze", "thaw", "freeze", "stop"].map(|verb| format!("{verb} dan"));
    assert_eq!(fake.calls(), expected);
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_frozen_or_thawed_says_why_and_stays_as_it_is() {
    let fake = Fake::default();
    let handle = begin(&fake, &Memory::default(), &["+dan"]);
    until(&handle, "dan", "running").await;
    let mut pictures = handle.follow();
    for (verb, state) in [(Verb::Freeze, "running"), (Verb::Start, "frozen")] {
        if state == "frozen" {
            fake.put_phase("dan", Phase::Frozen { since: 9 });
            until(&handle, "dan", "frozen").await;
        }
        fake.world().refusals = 1;
        handle.act(id("dan"), verb, Cause::Recorded("asked".into())).await.unwrap();
        pictures
            .wait_for(|picture| picture.workspaces[&id("dan")].failure.as_deref() == Some("podman is slow"))
            .await
            .unwrap();
        tokio::time::sleep(RESYNC_INTERVAL * 2).await;
        assert_eq!(handle.snapshot().workspaces[&id("dan")].state.word(), state);
    }
    assert_eq!(fake.calls(), ["start dan", "freeze dan", "thaw dan"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_frozen_stays_so_over_a_restart_of_the_daemon() {
    let fake = Fake::default();
    fake.put_phase("dan", Phase::Frozen { since: 9 });
    let handle = begin(&fake, &Memory::default(), &["dan"]);
    assert_eq!(until(&handle, "dan", "frozen").await.reason, "already frozen when csm started");
    tokio::time::sleep(RESYNC_INTERVAL * 2).await;
    assert_eq!(fake.calls(), Vec::<String>::new());
}

/// How often somebody undeclared, whom Podman does not let go, is tried in ten resyncs.
async fn tries(running: bool) -> usize {
    let fake = Fake::default();
    fake.put("eve", running);
    fake.world().refusals = 100;
    let _handle = begin(&fake, &Memory::default(), &["dan"]);
    tokio::time::sleep(RESYNC_INTERVAL * 10).await;
    fake.calls().len()
}

#[tokio::test(start_paused = true)]
async fn what_is_not_declared_and_can_not_go_is_tried_again_after_a_pause() {
    assert!((9..=11).contains(&tries(true).await), "stop");
    assert!((9..=11).contains(&tries(false).await), "remove");
}

#[tokio::test(start_paused = true)]
async fn a_changed_limit_restarts_nobody_until_asked() {
    let fake = Fake::default();
    let handle = begin(&fake, &Memory::default(), &["+dan"]);
    assert!(!until(&handle, "dan", "running").await.update_pending);
    handle.set_manifest(manifest(&["+dan"], "2G"));
    let mut pictures = handle.follow();
    pictures.wait_for(|picture| picture.workspaces[&id("dan")].update_pending).await.unwrap();
    assert_eq!(fake.calls(), ["start dan"]);
    handle.act(id("dan"), Verb::Restart, by_dan(Verb::Restart)).await.unwrap();
    pictures.wait_for(|picture| !picture.workspaces[&id("dan")].update_pending).await.unwrap();
    assert_eq!(until(&handle, "dan", "running").await.reason, "restarted by dan");
    assert_eq!(fake.calls(), ["start dan", "stop dan", "start dan"]);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_says_why_and_is_not_tried_again() {
    let fake = Fake::default();
    fake.world().fail = Some(RuntimeError::Failed { reason: "no such image".into(), log: vec!["last words".into()] });
    let history = Memory::default();
    let handle = begin(&fake, &history, &["+dan", "+eve"]);
    let view = until(&handle, "dan", "failed").await;
    assert_eq!((view.failure.as_deref(), view.log.as_slice()), (Some("no such image"), &["last words".to_owned()][..]));
    until(&handle, "eve", "failed").await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(fake.calls().len(), 2, "{:?}", fake.calls());
    assert!(history.load()[&id("dan")].failed);
    fake.world().fail = None;
    handle.act(id("dan"), Verb::Start, Cause::Recorded("again".into())).await.unwrap();
    assert_eq!(until(&handle, "dan", "running").await.failure, None);
}

#[tokio::test(start_paused = true)]
async fn one_that_ends_by_itself_is_said_and_stays_down() {
    let fake = Fake::default();
    let handle = begin(&fake, &Memory::default(), &["dan"]);
    handle.act(id("dan"), Verb::Start, opened()).await.unwrap();
    until(&handle, "dan", "running").await;
    fake.put("dan", false);
    let view = until(&handle, "dan", "failed").await;
    assert_eq!(view.reason, "exited with code 7");
    let mut pictures = handle.follow();
    pictures.wait_for(|picture| picture.workspaces[&id("dan")].log == ["its last words"]).await.unwrap();
    assert_eq!(fake.calls(), ["start dan"]);
}

#[tokio::test(start_paused = true)]
async fn a_start_can_be_given_up_and_what_it_made_is_stopped() {
    let fake = Fake::default();
    fake.world().gated = true;
    let handle = begin(&fake, &Memory::default(), &["dan"]);
    handle.act(id("dan"), Verb::Start, opened()).await.unwrap();
    until(&handle, "dan", "starting").await;
    handle.act(id("dan"), Verb::Stop, by_dan(Verb::Stop)).await.unwrap();
    assert_eq!(until(&handle, "dan", "stopped").await.reason, "stopped by dan");
    // The container had just begun to run when the start was given up.
    fake.put("dan", true);
    while !fake.calls().contains(&"stop dan".to_owned()) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// A daemon whose dan runs and was asked to stop or restart, which failed.
async fn stuck(fake: &Fake, verb: Verb) -> Handle {
    let handle = begin(fake, &Memory::default(), &["+dan"]);
    until(&handle, "dan", "running").await;
    fake.world().refusals = 1;
    handle.act(id("dan"), verb, Cause::Recorded("asked by dan".into())).await.unwrap();
    until(&handle, "dan", "failed").await;
    // It stays so, whatever is observed meanwhile.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(handle.snapshot().workspaces[&id("dan")].state, State::Failed);
    handle
}

#[tokio::test(start_paused = true)]
async fn what_was_stopped_late_stays_down() {
    let fake = Fake::default();
    let handle = stuck(&fake, Verb::Stop).await;
    fake.put("dan", false);
    let view = until(&handle, "dan", "stopped").await;
    assert_eq!((view.reason.as_str(), view.failure.as_deref()), ("asked by dan", None));
    tokio::time::sleep(RESYNC_INTERVAL * 3).await;
    assert_eq!(fake.calls(), ["start dan", "stop dan"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_fails_says_why_and_is_tried_again_after_a_pause() {
    let fake = Fake::default();
    let handle = stuck(&fake, Verb::Stop).await;
    let view = until(&handle, "dan", "failed").await;
    assert_eq!((view.reason.as_str(), view.failure.as_deref()), ("stopping failed", Some("podman is slow")));
    assert!(view.settled, "who waits for the outcome is told");
    assert!(view.may_run, "Ctrl-C waits for it, and warns");
    assert_eq!(fake.calls(), ["start dan", "stop dan"]);
    let view = until(&handle, "dan", "stopped").await;
    assert_eq!((view.reason.as_str(), view.failure.as_deref()), ("asked by dan", None));
    assert!(!view.may_run);
    tokio::time::sleep(RESYNC_INTERVAL * 3).await;
    assert_eq!(fake.calls(), ["start dan", "stop dan", "stop dan"]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_fails_to_stop_says_why_and_restarts_later() {
    let fake = Fake::default();
    let handle = stuck(&fake, Verb::Restart).await;
    let view = until(&handle, "dan", "failed").await;
    assert_eq!((view.failure.as_deref(), view.settled), (Some("podman is slow"), true));
    assert_eq!(until(&handle, "dan", "running").await.reason, "asked by dan");
    assert_eq!(fake.calls(), ["start dan", "stop dan", "stop dan", "start dan"]);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_stopped_is_stopped_or_kept_when_somebody_asks() {
    let fake = Fake::default();
    let handle = stuck(&fake, Verb::Stop).await;
    handle.act(id("dan"), Verb::Start, opened()).await.unwrap();
    assert_eq!(until(&handle, "dan", "running").await.failure, None);
    fake.world().refusals = 1;
    handle.act(id("dan"), Verb::Stop, Cause::Recorded("stopped".into())).await.unwrap();
    until(&handle, "dan", "failed").await;
    handle.act(id("dan"), Verb::Stop, Cause::Recorded("at once".into())).await.unwrap();
    let stopped = tokio::time::timeout(Duration::from_secs(1), until(&handle, "dan", "stopped")).await;
    assert_eq!(stopped.unwrap().reason, "at once");
    assert_eq!(fake.calls(), ["start dan", "stop dan", "start dan", "stop dan", "stop dan"]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_while_it_starts_begins_anew() {
    let fake = Fake::default();
    fake.world().gated = true;
    let handle = begin(&fake, &Memory::default(), &["dan"]);
    handle.act(id("dan"), Verb::Start, opened()).await.unwrap();
    until(&handle, "dan", "starting").await;
    fake.world().gated = false;
    handle.act(id("dan"), Verb::Restart, Cause::Recorded("again".into())).await.unwrap();
    assert_eq!(until(&handle, "dan", "running").await.reason, "again");
    // What the first start has made meanwhile would be taken for the second one's.
    let fake = Fake::default();
    fake.world().gated = true;
    let handle = begin(&fake, &Memory::default(), &["dan"]);
    handle.act(id("dan"), Verb::Start, opened()).await.unwrap();
    until(&handle, "dan", "starting").await;
    fake.put_phase("dan", Phase::Starting);
    fake.world().gated = false;
    handle.act(id("dan"), Verb::Restart, Cause::Recorded("again".into())).await.unwrap();
    assert_eq!(until(&handle, "dan", "running").await.reason, "again");
    assert_eq!(fake.calls(), ["start dan", "stop dan", "start dan"]);
}

/// A daemon that finds dan on the way up, and whose runtime never reaches dan's editor.
async fn stranded(fake: &Fake) -> Handle {
    fake.put_phase("dan", Phase::Starting);
    fake.world().fail = Some(RuntimeError::StillRunning("code-server does not answer".into()));
    let handle = begin(fake, &Memory::default(), &["dan"]);
    until(&handle, "dan", "failed").await;
    tokio::time::sleep(RESYNC_INTERVAL * 3).await;
    handle
}

#[tokio::test(start_paused = true)]
async fn what_runs_and_can_not_be_reached_is_neither_stopped_nor_tried_again_and_again() {
    let fake = Fake::default();
    let handle = stranded(&fake).await;
    let view = until(&handle, "dan", "failed").await;
    assert_eq!(
        (view.failure.as_deref(), view.settled, view.may_run),
        (Some("code-server does not answer"), true, true)
    );
    assert_eq!(fake.calls(), ["start dan"]);
    // Asked for, it is tried again; and that it can be reached after all is seen.
    fake.world().fail = None;
    handle.act(id("dan"), Verb::Start, opened()).await.unwrap();
    let view = until(&handle, "dan", "running").await;
    assert_eq!((view.reason.as_str(), view.failure.as_deref()), ("opened by dan", None));
    assert_eq!(fake.calls(), ["start dan", "start dan"]);

    let fake = Fake::default();
    let handle = stranded(&fake).await;
    fake.put("dan", true);
    until(&handle, "dan", "running").await;
    handle.act(id("dan"), Verb::Stop, by_dan(Verb::Stop)).await.unwrap();
    until(&handle, "dan", "stopped").await;
    assert_eq!(fake.calls(), ["start dan", "stop dan"]);
}

#[tokio::test(start_paused = true)]
async fn what_runs_and_can_not_be_reached_is_restarted_when_somebody_asks_and_may_end() {
    let fake = Fake::default();
    let handle = stranded(&fake).await;
    fake.world().fail = None;
    handle.act(id("dan"), Verb::Restart, by_dan(Verb::Restart)).await.unwrap();
    assert_eq!(until(&handle, "dan", "running").await.reason, "restarted by dan");
    assert_eq!(fake.calls(), ["start dan", "stop dan", "start dan"]);

    let fake = Fake::default();
    let handle = stranded(&fake).await;
    fake.put("dan", false);
    let mut snapshots = handle.follow();
    let exited = |snapshot: &Arc<Snapshot>| snapshot.workspaces[&id("dan")].reason == "exited with code 7";
    let view = snapshots.wait_for(exited).await.unwrap().workspaces[&id("dan")].clone();
    assert_eq!((view.failure.as_deref(), view.may_run), (None, false));
    assert_eq!(fake.calls(), ["start dan"]);
}

#[tokio::test(start_paused = true)]
async fn what_others_say_is_safe_to_show_and_a_last_log_is_bounded() {
    const RAW: &str = "a\u{1b}[31m\nb\u{202e}";
    const SHOWN: &str = r"a\u{1b}[31m b\u{202e}";
    let fake = Fake::default();
    fake.world().printed = Some((0..40).map(|n| format!("{}{n}", "<".repeat(1000))).collect());
    fake.world().fail = Some(RuntimeError::Refused(RAW.into()));
    let history = Memory::default();
    history.record(&id("eve"), &LastOutcome { failed: true, reason: RAW.into(), at: 42 });
    let handle = begin(&fake, &history, &["dan", "eve"]);
    handle.alarm("manifest", Some(RAW.to_owned()));
    handle.act(id("dan"), Verb::Start, opened()).await.unwrap();
    assert_eq!(until(&handle, "dan", "failed").await.failure.as_deref(), Some(SHOWN));
    assert_eq!(until(&handle, "eve", "failed").await.reason, SHOWN);
    assert_eq!(handle.snapshot().alarms, [SHOWN]);
    fake.put("eve", true);
    until(&handle, "eve", "running").await;
    fake.put_phase("eve", Phase::Exited { failed: true, reason: Some(RAW.into()) });
    assert_eq!(until(&handle, "eve", "failed").await.reason, SHOWN);
    let mut pictures = handle.follow();
    let picture = pictures.wait_for(|picture| !picture.workspaces[&id("eve")].log.is_empty()).await.unwrap().clone();
    let log = &picture.workspaces[&id("eve")].log;
    assert_eq!((log.len(), log[0].as_str()), (4, "… (37 earlier lines left out)"));
    assert!(log[3].ends_with("<39"));
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_hangs_is_an_alarm_and_changes_nothing() {
    let fake = Fake::default();
    let handle = begin(&fake, &Memory::default(), &["+dan"]);
    until(&handle, "dan", "running").await;
    fake.world().unreachable = true;
    let mut pictures = handle.follow();
    let alarmed = pictures.wait_for(|picture| picture.alarms == ["podman hangs"]).await.unwrap().clone();
    assert_eq!(alarmed.workspaces[&id("dan")].state.word(), "running");
    fake.world().unreachable = false;
    pictures.wait_for(|picture| picture.alarms.is_empty()).await.unwrap();
    assert_eq!(fake.calls(), ["start dan"]);
}

#[tokio::test(start_paused = true)]
async fn usage_is_measured_only_while_somebody_looks() {
    let fake = Fake::default();
    let handle = begin(&fake, &Memory::default(), &["dan"]);
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
async fn disks_are_measured_once_a_minute_and_for_dashboards_alone() {
    let fake = Fake::default();
    let handle = begin(&fake, &Memory::default(), &["dan"]);
    let watching = handle.watch(Measure::Usage);
    tokio::time::sleep(DISK_INTERVAL * 3).await;
    drop(watching);
    assert_eq!(measurements(&fake), 0, "csm status measures none");
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
async fn a_slow_disk_is_measured_once_and_keeps_no_figures_back() {
    let fake = Fake::default();
    fake.world().disk_gated = true;
    let handle = begin(&fake, &Memory::default(), &["+dan"]);
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
async fn at_most_four_start_at_a_time() {
    let fake = Fake::default();
    fake.world().gated = true;
    let names = ["+a", "+b", "+c", "+d", "+e", "+f"];
    let handle = begin(&fake, &Memory::default(), &names);
    let mut pictures = handle.follow();
    let queued = |picture: &Arc<Snapshot>| {
        picture.workspaces.values().filter(|view| view.state == State::Starting(Progress::Queued)).count()
    };
    pictures.wait_for(|picture| fake.calls().len() == 4 && queued(picture) == 2).await.unwrap();
    for _ in 0..names.len() {
        fake.gate.notify_one();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for name in names {
        until(&handle, &name[1..], "running").await;
    }
}

#[tokio::test(start_paused = true)]
async fn why_it_stopped_is_known_after_a_restart_of_the_daemon() {
    let history = Memory::default();
    history.record(&id("dan"), &LastOutcome { failed: false, reason: "stopped by dan".into(), at: 42 });
    let handle = begin(&Fake::default(), &history, &["dan"]);
    let view = until(&handle, "dan", "stopped").await;
    assert_eq!((view.reason.as_str(), view.at), ("stopped by dan", 42));
}

/// What a request waits for must be seen: observations that began before do not count.
#[tokio::test(start_paused = true)]
async fn a_change_during_an_observation_is_observed_too() {
    let fake = Fake::default();
    let handle = begin(&fake, &Memory::default(), &["dan"]);
    handle.observed().await;
    fake.world().observe_gated = true;
    fake.changed.notify_one();
    while fake.world().observations < 2 {
        tokio::task::yield_now().await;
    }
    // It has looked already, and is not back yet.
    fake.put("dan", true);
    // The daemon hears of the change before the observation is back.
    handle.alive().await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    fake.world().observe_gated = false;
    fake.observe_gate.notify_one();
    let seen = tokio::time::timeout(Duration::from_secs(1), until(&handle, "dan", "running")).await;
    assert_eq!(seen.expect("not only at the next resync").reason, "started outside csm");
}

#[tokio::test(start_paused = true)]
async fn requests_do_not_keep_observations_back() {
    let fake = Fake::default();
    let handle = begin(&fake, &Memory::default(), &["dan", "eve"]);
    handle.observed().await;
    let busy = handle.clone();
    let requests = tokio::spawn(async move {
        loop {
            for verb in [Verb::Start, Verb::Stop] {
                busy.act(id("eve"), verb, by_dan(verb)).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    fake.put("dan", true);
    // The clock stands still while somebody is at work: this counts turns, not time.
    for _ in 0..10_000 {
        if handle.snapshot().workspaces[&id("dan")].state.word() == "running" {
            requests.abort();
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("dan was never seen");
}

#[tokio::test(start_paused = true)]
async fn slow_pulls_keep_no_other_start_back() {
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
        handle.act(id(name), Verb::Start, opened()).await.unwrap();
    }
    until(&handle, "dan", "running").await;
    let view = until(&handle, "a", "starting").await;
    assert_eq!(view.state, State::Starting(Progress::Pulling { percent: None }));
    // A pull can be given up.
    handle.act(id("a"), Verb::Stop, by_dan(Verb::Stop)).await.unwrap();
    until(&handle, "a", "stopped").await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_step_is_a_failure_and_not_a_wait_without_end() {
    let fake = Fake::default();
    fake.world().panics = true;
    let handle = begin(&fake, &Memory::default(), &["dan"]);
    handle.act(id("dan"), Verb::Start, opened()).await.unwrap();
    let view = until(&handle, "dan", "failed").await;
    assert!(view.failure.as_deref().is_some_and(|failure| failure.contains("internal error")), "{view:?}");
    assert!(view.settled);
}

#[tokio::test(start_paused = true)]
async fn somebody_who_is_removed_while_it_starts_leaves_nothing_running() {
    let fake = Fake::default();
    fake.world().gated = true;
    let handle = begin(&fake, &Memory::default(), &["dan", "+eve"]);
    until(&handle, "eve", "starting").await;
    handle.set_manifest(manifest(&["dan"], "1G"));
    // Its container appears late.
    fake.put("eve", true);
    while fake.world().containers.contains_key(&id("eve")) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(fake.calls(), ["start eve", "stop eve", "remove eve"]);
}
