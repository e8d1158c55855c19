//! Tests of the activity: situations, each with the verdict that is wanted.

use std::time::Duration;

use super::*;
use crate::model::autostop::Autostop;

const STEP: Duration = Duration::from_secs(30);

/// A workspace in which the same thing happens all the time.
struct World {
    activity: Activity,
    autostop: Autostop,
    update_pending: bool,
    announced: Vec<u64>,
}

impl World {
    fn new() -> Self {
        let mut activity = Activity::default();
        activity.set_phase(Phase::Running(1));
        Self { activity, autostop: Autostop::default(), update_pending: false, announced: Vec::new() }
    }

    fn advance(&mut self, time: Duration) {
        let context = Context { autostop: &self.autostop, update_pending: self.update_pending };
        self.activity.advance(time, context);
    }

    fn decide(&mut self) -> Decision {
        let context = Context { autostop: &self.autostop, update_pending: self.update_pending };
        let decision = self.activity.decide(context);
        if decision.announce {
            self.announced.push(decision.verdict.next.expect("announced").seconds);
        }
        decision
    }

    /// Lets time pass with this sample every 30 s. Returns the time after which a step is taken, if one is.
    fn run(&mut self, sample: &Sample, minutes: u64) -> Option<(u64, Next)> {
        for step in 1..=minutes * 2 {
            self.advance(STEP);
            let report = Report { sample: Some(Sample { elapsed: 30_000, ..sample.clone() }), claims: Vec::new() };
            assert!(self.activity.report(report, &self.autostop).is_empty());
            let decision = self.decide();
            if decision.act {
                return Some((step / 2, decision.verdict.next.expect("a step")));
            }
        }
        None
    }

    fn claim(&mut self, claim: Claim) -> Vec<Refused> {
        self.activity.report(Report { sample: None, claims: vec![claim] }, &self.autostop)
    }

    fn agent(&mut self, state: AgentState, pid: Option<u32>) {
        let claim = Claim::Agent { id: "codex".into(), name: None, state, pid };
        assert!(self.claim(claim).is_empty());
    }

    fn text(&mut self) -> String {
        self.decide().verdict.to_string()
    }
}

fn freeze() -> Next {
    Next { stops: false, seconds: 0, because: Because::Idle }
}

const DAY: u64 = 24 * 60;

#[test]
fn a_workspace_in_which_nothing_happens_is_frozen_with_two_warnings() {
    let mut world = World::new();
    assert_eq!(world.run(&Sample::default(), DAY), Some((30, freeze())));
    assert_eq!(world.announced, [600, 120]);
}

#[test]
fn an_open_tab_keeps_it_as_long_as_autostop_says() {
    let mut world = World::new();
    let tab = Sample { connections: 3, ..Sample::default() };
    assert_eq!(world.run(&tab, 239), None);
    assert_eq!(world.text(), "kept: a browser tab is open");
    assert_eq!(world.run(&tab, DAY), Some((30, freeze())));
}

#[test]
fn typing_keeps_it_and_makes_an_open_tab_count_again() {
    let mut world = World::new();
    let typing = Sample { input: Some("bash".into()), ..Sample::default() };
    assert_eq!(world.run(&typing, 3 * DAY), None);
    assert_eq!(world.run(&Sample { connections: 1, ..Sample::default() }, 230), None);
}

#[test]
fn a_compiler_keeps_it_without_a_tab_until_the_longest_lease_is_over() {
    let mut world = World::new();
    let build =
        Sample { cpu: 28_000, programs: vec![Program { name: "cargo".into(), cpu: 28_000 }], ..Sample::default() };
    assert_eq!(world.run(&build, 60), None);
    assert_eq!(world.text(), "kept: cargo uses 93 % CPU");
    assert_eq!(world.decide().verdict.kept_for, Some(23 * 3600));
    assert_eq!(world.run(&build, 2 * DAY), Some((23 * 60 + 30, freeze())));
}

#[test]
fn a_known_program_that_only_waits_does_not_keep_it() {
    let mut world = World::new();
    let watcher = Sample { programs: vec![Program { name: "cargo".into(), cpu: 20 }], ..Sample::default() };
    assert_eq!(world.run(&watcher, DAY), Some((30, freeze())));
}

#[test]
fn unknown_work_keeps_it_by_its_average() {
    let mut world = World::new();
    // 5 s of work each 30 s are 16 %.
    let work = Sample { cpu: 5_000, busiest: Some("train.py".into()), ..Sample::default() };
    assert_eq!(world.run(&work, 60), None);
    assert_eq!(world.text(), "kept: programs use 16 % CPU, train.py the most");
    // An idle editor takes less than one percent.
    let mut world = World::new();
    assert_eq!(world.run(&Sample { cpu: 300, ..Sample::default() }, DAY), Some((30, freeze())));
}

#[test]
fn a_burst_of_the_editor_is_not_work() {
    let mut world = World::new();
    assert_eq!(world.run(&Sample::default(), 10), None);
    world.advance(STEP);
    let burst = Sample { elapsed: 30_000, cpu: 5_000, ..Sample::default() };
    world.activity.report(Report { sample: Some(burst), claims: Vec::new() }, &world.autostop);
    assert_eq!(world.run(&Sample::default(), DAY), Some((19, freeze())));
}

#[test]
fn work_that_has_ended_counts_for_two_minutes_however_much_it_was() {
    let mut world = World::new();
    assert_eq!(world.run(&Sample { cpu: 900_000, io: 1 << 40, ..Sample::default() }, 60), None);
    assert_eq!(world.run(&Sample::default(), DAY), Some((32, freeze())));
}

#[test]
fn an_agent_that_thinks_without_cpu_keeps_it_as_long_as_its_process_lives() {
    let mut world = World::new();
    world.agent(AgentState::Working, Some(42));
    assert_eq!(world.run(&Sample::default(), 120), None);
    assert_eq!(world.text(), "kept: codex is working (2 h 0 min)");
    let gone = Sample { gone: vec!["codex".into()], ..Sample::default() };
    assert_eq!(world.run(&gone, DAY), Some((30, freeze())));
}

#[test]
fn an_agent_without_a_process_that_says_nothing_counts_for_an_hour() {
    let mut world = World::new();
    world.agent(AgentState::Working, None);
    assert_eq!(world.run(&Sample::default(), DAY), Some((89, freeze())));
}

#[test]
fn an_agent_that_waits_for_a_person_is_shown_and_may_be_frozen() {
    let mut world = World::new();
    world.agent(AgentState::Question, Some(42));
    assert_eq!(world.run(&Sample::default(), 20), None);
    assert_eq!(world.text(), "idle for 20 min; codex has been waiting for an answer for 20 min; freezes in 10 min");
    world.agent(AgentState::Permission, Some(42));
    assert!(world.text().contains("waiting for permission for 0 s"), "{}", world.text());
    assert_eq!(world.run(&Sample::default(), DAY), Some((10, freeze())));
}

#[test]
fn a_second_agent_that_works_counts_when_the_first_is_done() {
    let mut world = World::new();
    world.agent(AgentState::Done, Some(42));
    let sub =
        Claim::Agent { id: "sub".into(), name: Some("subagent".into()), state: AgentState::Working, pid: Some(43) };
    assert!(world.claim(sub).is_empty());
    assert_eq!(world.run(&Sample::default(), 60), None);
    assert_eq!(world.text(), "kept: subagent is working (1 h 0 min)");
}

#[test]
fn a_lease_keeps_it_and_ends() {
    let mut world = World::new();
    let lease = Claim::Lease { id: "build".into(), reason: Some("make world".into()), seconds: 7200 };
    assert!(world.claim(lease).is_empty());
    assert_eq!(world.run(&Sample::default(), 60), None);
    assert_eq!(world.text(), "kept: make world (lease for another 1 h 0 min)");
    assert_eq!(world.run(&Sample::default(), DAY), Some((89, freeze())));
}

#[test]
fn a_lease_beyond_the_cap_is_refused_with_the_cap() {
    let mut world = World::new();
    let refused = world.claim(Claim::Lease { id: "x".into(), reason: None, seconds: 86_401 });
    assert!(refused[0].0.contains("autostop.maxLease is 86400 s"), "{refused:?}");
    assert_eq!(world.run(&Sample::default(), DAY), Some((30, freeze())));
}

#[test]
fn claims_alone_never_keep_it_beyond_the_longest_lease() {
    let mut world = World::new();
    for _ in 0..23 {
        world.agent(AgentState::Working, Some(1));
        assert!(world.claim(Claim::Lease { id: "x".into(), reason: None, seconds: 86_400 }).is_empty());
        assert_eq!(world.run(&Sample::default(), 60), None);
    }
    world.agent(AgentState::Working, Some(1));
    assert_eq!(world.run(&Sample::default(), DAY), Some((90, freeze())));
}

#[test]
fn keeping_it_by_hand_counts_as_its_owners_presence() {
    let mut world = World::new();
    assert_eq!(world.run(&Sample::default(), 29), None);
    world.activity.keep(Duration::from_secs(7200), "kept by dan", &world.autostop.clone()).expect("accepted");
    assert_eq!(world.run(&Sample::default(), DAY), Some((149, freeze())));
}

#[test]
fn output_keeps_it_up_to_the_cap() {
    let mut world = World::new();
    let top = Sample { output: Some("top".into()), ..Sample::default() };
    assert_eq!(world.run(&top, 60), None);
    assert_eq!(world.text(), "kept: top prints to a terminal");
    assert!(world.run(&top, 2 * DAY).is_some());
}

#[test]
fn it_is_frozen_a_moment_after_a_sample_but_not_long_after_one() {
    let mut world = World::new();
    assert_eq!(world.run(&Sample::default(), 29), None);
    world.advance(STEP);
    world.advance(STEP);
    assert!(!world.decide().act, "the sample is a minute old");
    world.activity.report(Report { sample: Some(Sample::default()), claims: Vec::new() }, &world.autostop);
    world.advance(Duration::from_millis(1));
    assert!(world.decide().act);
}

#[test]
fn a_silent_sensor_counts_as_work_up_to_the_cap() {
    let mut world = World::new();
    let mut acted = None;
    for minute in 0..2 * DAY {
        world.advance(Duration::from_secs(60));
        let decision = world.decide();
        if minute == 60 {
            assert_eq!(decision.verdict.kept_by, [Keeper::NoReport]);
        }
        if decision.act {
            acted = Some(minute);
            break;
        }
    }
    assert_eq!(acted, Some(DAY + 29));
}

#[test]
fn a_frozen_workspace_is_stopped_and_its_other_clocks_stand() {
    let mut world = World::new();
    world.agent(AgentState::Question, Some(42));
    assert_eq!(world.run(&Sample::default(), DAY), Some((30, freeze())));
    world.activity.set_phase(Phase::Frozen(1));
    let decision = world.decide();
    assert_eq!(decision.verdict.next, Some(Next { stops: true, seconds: 8 * 3600 - 1800, because: Because::Idle }));
    assert!(!decision.act);
    world.advance(Duration::from_secs(8 * 3600 - 1800));
    assert!(world.decide().act);
    world.activity.set_phase(Phase::Running(1));
    assert_eq!(world.run(&Sample::default(), 29), None);
    assert!(world.text().contains("waiting for an answer for 59 min"), "{}", world.text());
}

#[test]
fn a_start_begins_with_new_clocks_and_without_claims() {
    let mut world = World::new();
    world.agent(AgentState::Working, Some(42));
    assert_eq!(world.run(&Sample::default(), 20), None);
    world.activity.set_phase(Phase::Down);
    assert_eq!(world.decide().verdict, Verdict::default());
    world.activity.set_phase(Phase::Running(9));
    assert_eq!(world.run(&Sample::default(), DAY), Some((30, freeze())));
    // One that was started again while csm did not run.
    world.agent(AgentState::Working, Some(42));
    world.activity.resume(Phase::Running(9));
    assert_eq!(world.run(&Sample::default(), 60), None);
    world.activity.resume(Phase::Running(10));
    assert_eq!(world.run(&Sample::default(), DAY), Some((30, freeze())));
}

#[test]
fn a_pending_update_stops_it_instead_of_freezing_it() {
    let mut world = World::new();
    world.update_pending = true;
    assert_eq!(
        world.run(&Sample::default(), DAY),
        Some((30, Next { stops: true, seconds: 0, because: Because::Update }))
    );
}

#[test]
fn the_longest_running_time_stops_it_even_at_work() {
    let mut world = World::new();
    world.autostop.max_runtime = "2h".parse().expect("a delay");
    world.agent(AgentState::Working, Some(42));
    let next = Next { stops: true, seconds: 0, because: Because::MaxRuntime };
    assert_eq!(world.run(&Sample { connections: 1, ..Sample::default() }, DAY), Some((120, next)));
    assert_eq!(world.announced, [600, 120]);
}

#[test]
fn a_pending_update_restarts_a_workspace_at_work_at_its_deadline() {
    let mut world = World::new();
    world.autostop.update_deadline = "1d".parse().expect("a delay");
    let typing = Sample { input: Some("bash".into()), ..Sample::default() };
    assert_eq!(world.run(&typing, 2 * DAY), None);
    world.update_pending = true;
    let next = Next { stops: true, seconds: 0, because: Because::UpdateDeadline };
    assert_eq!(world.run(&typing, DAY - 5), None);
    assert_eq!(world.text(), "idle for 0 s; restarts in 5 min to apply the changed configuration");
    assert_eq!(world.run(&typing, 9), Some((5, next)));
    assert_eq!(world.announced, [600, 120]);
}

#[test]
fn every_delay_can_be_off() {
    let mut world = World::new();
    world.autostop.freeze_after = "off".parse().expect("off");
    assert_eq!(world.run(&Sample::default(), DAY), Some((480, Next { stops: true, ..freeze() })));
    let mut world = World::new();
    (world.autostop.freeze_after, world.autostop.stop_after) =
        ("off".parse().expect("off"), "off".parse().expect("off"));
    assert_eq!(world.run(&Sample::default(), 9 * DAY), None);
    assert_eq!(world.decide().verdict.next, None);
}

#[test]
fn ten_thousand_agents_and_endless_names_are_bounded_and_shown_harmlessly() {
    let mut world = World::new();
    for at in 0..10_000 {
        let name = format!("<b>\u{1b}[31m{at}{}", "x".repeat(1000));
        let claim = Claim::Agent { id: name.clone(), name: Some(name), state: AgentState::Working, pid: None };
        let refused = world.claim(claim);
        assert_eq!(refused.is_empty(), at < 32, "{refused:?}");
    }
    let text = world.text();
    assert!(!text.contains('\u{1b}') && text.len() < 32 * 300, "{}", text.len());
    // Agents that have nothing to do give way.
    let id = format!("<b>\u{1b}[31m0{}", "x".repeat(1000));
    assert!(world.claim(Claim::Agent { id, name: None, state: AgentState::Idle, pid: None }).is_empty());
    world.agent(AgentState::Working, None);
}

#[test]
fn what_is_known_survives_a_restart_of_csm() {
    let mut world = World::new();
    world.agent(AgentState::Working, Some(42));
    world.claim(Claim::Lease { id: "x".into(), reason: None, seconds: 3600 });
    assert_eq!(world.run(&Sample::default(), 20), None);
    let stored = serde_json::to_string(&world.activity).expect("serialized");
    world.activity = serde_json::from_str(&stored).expect("deserialized");
    assert_eq!(world.text(), "kept: codex is working (20 min) and x (lease for another 40 min)");
}
