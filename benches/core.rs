//! The pure core at sizes well beyond what one machine holds: what the daemon does for itself, apart from any I/O.

// A benchmark has nobody to hand an error to.
#![allow(clippy::expect_used, missing_docs)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

use code_server_multi::access::cookies;
use code_server_multi::access::site::Site;
use code_server_multi::model::container::container_spec;
use code_server_multi::model::label::Label;
use code_server_multi::model::layout::Layout;
use code_server_multi::model::manifest::{Machine, Manifest};
use code_server_multi::plan::{Cause, Event, Lifecycle, Observed, Phase, Verb};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

const MACHINE: Machine = Machine { memory: 64 << 30, cpus: 16 };

fn manifest(count: usize) -> String {
    let mut users = String::new();
    for n in 0..count {
        let comma = if n == 0 { "" } else { "," };
        let _ = write!(
            users,
            r#"{comma}"u{n}":{{"passwordFile":"/run/secrets/u{n}","memoryLimit":"2G","cpuLimit":"1.5"}}"#
        );
    }
    format!(r#"{{"version":1,"domain":"code.localhost","image":"localhost/code:latest","users":{{{users}}}}}"#)
}

fn planning(c: &mut Criterion) {
    let digest = "d".repeat(64);
    let running = Observed { digest: Some(digest.clone()), phase: Phase::Running { since: 1, warning: None } };
    let mut up: Vec<Lifecycle> = (0..10_000).map(|_| Lifecycle::new(false, Cause::NeverStarted, 0)).collect();
    let observe = |all: &mut Vec<Lifecycle>| {
        all.iter_mut()
            .map(|one| usize::from(one.handle(Event::Observed(Some(running.clone())), &digest, 1).step.is_some()))
            .sum::<usize>()
    };
    assert_eq!(observe(&mut up), 0);
    c.bench_function("plan, 10,000 workspaces, nothing to do", |b| b.iter(|| observe(black_box(&mut up))));
    c.bench_function("plan, 10,000 workspaces, all to start", |b| {
        let down: Vec<Lifecycle> = (0..10_000).map(|_| Lifecycle::new(false, Cause::NeverStarted, 0)).collect();
        b.iter_batched_ref(
            || down.clone(),
            |down| {
                let started = down.iter_mut().map(|one| {
                    one.handle(Event::Requested(Verb::Start, Cause::AutoStart), &digest, 1);
                    usize::from(one.handle(Event::Observed(None), &digest, 1).step.is_some())
                });
                assert_eq!(started.sum::<usize>(), 10_000);
            },
            BatchSize::LargeInput,
        );
    });
}

fn manifests(c: &mut Criterion) {
    let text = manifest(1_000);
    let parse = || Manifest::parse(black_box(&text), &MACHINE);
    assert_eq!(parse().0.expect("valid").owners.len(), 1_000);
    c.bench_function("manifest of 1,000 users, parsed and checked", |b| b.iter(parse));

    let full = include_str!("../tests/manifests/full.json");
    let full = Manifest::parse(full, &MACHINE).0.expect("valid");
    let workspace = &full.workspaces[&"dan".parse().expect("an id")];
    let layout = Layout { run: "/run/csm".into(), state: "/var/lib/csm".into(), share: "/usr/share/csm".into() };
    c.bench_function("container_spec of one workspace", |b| {
        b.iter(|| container_spec(black_box(&full), workspace, &layout));
    });
    let spec = container_spec(&full, workspace, &layout);
    c.bench_function("digest of a container_spec", |b| b.iter(|| black_box(&spec).digest()));
}

fn access(c: &mut Criterion) {
    // As long as code-server and a few of the person's own programs make it.
    let header = format!(
        "vscode-tkn={}; theme=dark; __Host-csm-device=dan.{m}; _xsrf={}; {}={m}",
        "a".repeat(40),
        "b".repeat(60),
        cookies::WORKSPACE,
        m = "c".repeat(87),
    );
    assert!(cookies::find(header.as_bytes(), cookies::WORKSPACE).is_some());
    c.bench_function("cookie found in a header", |b| {
        b.iter(|| cookies::find(black_box(header.as_bytes()), cookies::WORKSPACE).map(str::len));
    });
    c.bench_function("label parsed", |b| b.iter(|| black_box("3000--api--dan").parse::<Label>()));
    c.bench_function("site parsed", |b| b.iter(|| black_box("label:3000--api--dan").parse::<Site>()));
}

criterion_group! {
    name = core;
    // Short: two of these figures have a goal, and both are met by a factor, not by a percentage.
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = planning, manifests, access
}
criterion_main!(core);
