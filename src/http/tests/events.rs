//! The API's events and the page of a workspace's events.

use super::*;
use crate::model::event::{Actor, Fact, Kind, Line};
use crate::plan::{Cause, Verb};

const EVENTS: &str = "/api/v1/events";

impl Stage {
    /// Records what happened to dan's and grace's workspaces and sign-ins, and to the manifest.
    async fn with_events(&self) {
        for name in ["dan", "grace"] {
            let user = Some(name.parse().unwrap());
            self.app.daemon.record(Fact::of_user(user, Kind::SignInRefused { source: Line::new("192.0.2.7") }));
            let started = Fact::of_workspace(name.parse().unwrap(), Kind::Started);
            self.app.daemon.record(started.because(format!("opened by {name}")));
        }
        self.app.daemon.record(Fact::of_user(None, Kind::SignInRefused { source: Line::new("192.0.2.8") }));
        self.app.daemon.record(Fact::new(Kind::ManifestApplied { users: 2 }));
        self.app.daemon.ping().await;
    }

    async fn get(&self, target: &str, cookie: &str) -> Response {
        self.send(self.ask("GET", "dashboard", target).with("cookie", cookie).bare()).await
    }
}

async fn body(response: Response) -> String {
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

/// Each event as its kind and whom it concerns.
fn shown(lines: &str) -> Vec<String> {
    lines
        .lines()
        .map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            let whom = event["workspace"].as_str().or(event["user"].as_str()).unwrap_or("-");
            format!("{} {whom}", event["kind"].as_str().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn users_get_their_own_events_and_admins_and_the_socket_get_all() {
    let stage = stage();
    stage.with_events().await;
    let (_, dan) = stage.signed_in("dan").await;
    let (_, grace) = stage.signed_in("grace").await;
    let all = [
        "signInRefused dan",
        "started dan",
        "signInRefused grace",
        "started grace",
        "signInRefused -",
        "manifestApplied -",
    ];
    assert_eq!(shown(&body(stage.get(EVENTS, &dan).await).await), ["signInRefused dan", "started dan"]);
    assert_eq!(shown(&body(stage.get(EVENTS, &grace).await).await), all);
    let operator = api::operator_routes().with_state(stage.app.clone());
    let request = Request::builder().uri(EVENTS).body(Body::empty()).unwrap();
    assert_eq!(shown(&body(operator.oneshot(request).await.unwrap()).await), all);
    assert_eq!(stage.get(EVENTS, "").await.status(), StatusCode::UNAUTHORIZED);
    // What exists and what does not are refused alike.
    let other = stage.get("/api/v1/events?workspace=grace", &dan).await;
    assert_eq!(other.status(), StatusCode::NOT_FOUND);
    let missing = body(stage.get("/api/v1/events?workspace=nobody", &dan).await).await;
    assert_eq!(body(other).await.replace("grace", "nobody"), missing);
    assert_eq!(stage.get("/workspaces/grace/events", &dan).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_number_of_events_is_limited_and_filters_apply() {
    let stage = stage();
    stage.with_events().await;
    let (_, grace) = stage.signed_in("grace").await;
    for n in 0..1200_u64 {
        // A fact about csm itself, whose number is not limited.
        stage.app.daemon.record(Fact::new(Kind::ManifestApplied { users: usize::try_from(n).unwrap() }));
    }
    stage.app.daemon.ping().await;
    let count = async |query: &str| body(stage.get(&format!("{EVENTS}{query}"), &grace).await).await.lines().count();
    assert_eq!(count("").await, 100);
    assert_eq!(count("?limit=5000").await, 1000);
    assert_eq!(count("?limit=0").await, 0);
    assert_eq!(count("?since=1001").await, 0);
    let of_dan = body(stage.get("/api/v1/events?workspace=dan&since=1000", &grace).await).await;
    assert_eq!(shown(&of_dan), ["started dan"]);
    assert_eq!(stage.get("/api/v1/events?limit=-1", &grace).await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn a_follower_gets_each_event_once_and_only_what_its_user_may_see() {
    let stage = stage();
    stage.with_events().await;
    let (_, dan) = stage.signed_in("dan").await;
    let mut lines = stage.get("/api/v1/events?follow=true&limit=1", &dan).await.into_body().into_data_stream();
    let mut next = async || shown(&super::next(&mut lines).await.flatten().unwrap_or_default()).pop();
    assert_eq!(next().await.as_deref(), Some("started dan"));
    for name in ["grace", "dan"] {
        stage
            .app
            .daemon
            .request(name.parse().unwrap(), Verb::Start, Cause::Opened(name.parse().unwrap()))
            .await
            .unwrap();
        stage.until(name, "running").await;
    }
    assert_eq!(next().await.as_deref(), Some("started dan"));
    stage.send(stage.ask("POST", "dashboard", "/sign-out").own().with("cookie", &dan).bare()).await;
    // It ends with the session, after or before the event of the sign-out.
    while let Some(event) = next().await {
        assert_eq!(event, "signedOut dan");
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_who_is_no_longer_an_admin_gets_no_more_events() {
    let stage = stage();
    let (_, grace) = stage.signed_in("grace").await;
    let mut lines = stage.get("/api/v1/events?follow=true", &grace).await.into_body().into_data_stream();
    stage.manifest.send_replace(declared(stage.directory.path(), false));
    assert_eq!(next(&mut lines).await, Some(None));
}

#[tokio::test(start_paused = true)]
async fn a_slow_follower_is_dropped_and_their_number_is_limited() {
    let stage = stage();
    let (_, dan) = stage.signed_in("dan").await;
    let (_, grace) = stage.signed_in("grace").await;
    let mut slow = stage.get("/api/v1/events?follow=true", &grace).await.into_body().into_data_stream();
    for _ in 0..2000 {
        stage.app.daemon.record(Fact::new(Kind::ManifestApplied { users: 2 }));
    }
    stage.app.daemon.ping().await;
    assert_eq!(next(&mut slow).await, Some(None));
    let mut followed = Vec::new();
    for _ in 0..32 {
        followed.push(stage.get("/api/v1/events?follow=true", &dan).await);
    }
    let refused = stage.get("/api/v1/events?follow=true", &dan).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(body(refused).await.contains("32 pages of yours are open already."));
    assert_eq!(stage.get(EVENTS, &dan).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn hostile_text_is_shown_as_text_on_the_page_and_in_the_api() {
    let stage = stage();
    let (_, cookie) = stage.signed_in("dan").await;
    let hostile = format!("<script>alert(1)</script>\n\u{1b}[2J\u{202e}{}", "x".repeat(5000));
    let taken = Kind::LeaseTaken { reason: Line::new(&hostile), seconds: 60 };
    stage.app.daemon.record(Fact::of_workspace("dan".parse().unwrap(), taken));
    let kept = Fact::of_workspace("dan".parse().unwrap(), Kind::Kept { seconds: 60 });
    stage.app.daemon.record(kept.by(Some(Actor::CommandLine)));
    stage.app.daemon.ping().await;
    let page = stage.get("/workspaces/dan/events", &cookie).await;
    assert_eq!(page.status(), StatusCode::OK);
    let page = body(page).await;
    assert!(page.contains(r"&#60;script&#62;alert(1)&#60;/script&#62; \u{1b}[2J\u{202e}xxx"), "{page}");
    assert!(
        page.contains("kept for 1 min 0 s by the command line") || page.contains("kept for 1 min by the command line"),
        "{page}"
    );
    assert!(!page.contains("<script") && !page.contains("style="), "{page}");
    assert!(page.contains("<title id=\"memory-title\">Memory over the last day</title>"), "{page}");
    let lines = body(stage.get(EVENTS, &cookie).await).await;
    assert!(lines.lines().count() == 2 && lines.len() < 1000, "{lines}");
}

#[tokio::test]
async fn events_that_can_not_be_stored_are_sent_and_stop_nothing() {
    let stage = stage();
    let (_, cookie) = stage.signed_in("dan").await;
    let database = stage.database();
    let full = "CREATE TRIGGER full BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'disk full'); END";
    database.execute_batch(full).unwrap();
    let mut lines = stage.get("/api/v1/events?follow=true", &cookie).await.into_body().into_data_stream();
    let id: WorkspaceId = "dan".parse().unwrap();
    stage.app.daemon.request(id, Verb::Start, Cause::Opened("dan".parse().unwrap())).await.unwrap();
    stage.until("dan", "running").await;
    assert_eq!(shown(&next(&mut lines).await.flatten().unwrap()), ["started dan"]);
    assert!(stage.app.state.events(crate::model::event::Filter::default(), 9).await.unwrap().is_empty());
    database.execute_batch("DROP TRIGGER full").unwrap();
    assert!(stage.app.state.healthy().await);
}

#[tokio::test]
async fn sign_ins_and_outs_are_recorded_with_their_address() {
    let stage = stage();
    let (_, cookie) = stage.signed_in("grace").await;
    for form in ["name=dan&password=right", "name=dan&password=wrong", "name=hunter2&password=x"] {
        stage.send(stage.ask("POST", "dashboard", "/sign-in").own().form(form)).await;
    }
    stage.app.daemon.ping().await;
    let lines = body(stage.get(EVENTS, &cookie).await).await;
    assert_eq!(shown(&lines), ["signedIn dan", "signInRefused dan", "signInRefused -"]);
    assert!(lines.matches("\"source\":\"10.0.0.1\"").count() == 3 && !lines.contains("hunter2"), "{lines}");
}
