//! Tests of the pages and the API, with requests as nginx sends them and a daemon with a fake runtime.

use std::cell::Cell;
use std::time::Duration;

use argon2::password_hash::{PasswordHasher as _, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use axum::body::Body;
use axum::http::{StatusCode, header};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::*;
use crate::access::cookies;
use crate::access::session::Session;
use crate::adapters::state::State;
use crate::daemon::Daemon;
use crate::daemon::view::Snapshot;
use crate::model::label::WorkspaceId;
use crate::model::layout::Layout;
use crate::model::manifest::{Machine, Manifest};
use crate::ports::Clock;
use crate::ports::fake::Fake;

mod dashboard;
mod events;
mod messages;
mod sign_in;
mod sockets;
mod wake;

/// The pages, the daemon behind them, and their files.
struct Stage {
    app: Arc<App>,
    front: Router,
    daemon: AbortHandle,
    fake: Fake,
    manifest: watch::Sender<Arc<Manifest>>,
    directory: tempfile::TempDir,
}

/// An argon2 hash with low cost, so that the tests are fast.
fn hash(password: &str) -> String {
    let cheap = Params::new(8, 1, 1, None).unwrap();
    let salt = SaltString::encode_b64(&[7; 16]).unwrap();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, cheap)
        .hash_password(password.as_bytes(), &salt)
        .unwrap()
        .to_string()
}

/// A manifest with dan, and grace, who is an admin or not.
fn declared(directory: &Path, grace_is_admin: bool) -> Arc<Manifest> {
    let file = directory.join("password");
    let text = serde_json::json!({
        "version": 1, "domain": "code.localhost", "image": "x",
        "users": {
            "dan": { "passwordFile": file, "memoryLimit": "1G" },
            "grace": { "passwordFile": file, "memoryLimit": "1G", "admin": grace_is_admin },
        },
    });
    let (manifest, issues) = Manifest::parse(&text.to_string(), &Machine { memory: 8 << 30, cpus: 4 });
    manifest.unwrap_or_else(|| panic!("{issues:?}")).into()
}

thread_local! {
    /// The time of this thread's tests. Everything that asks for it runs on the test's thread.
    static NOW: Cell<u64> = const { Cell::new(1000) };
}

fn stage() -> Stage {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("password"), hash("right")).unwrap();
    let layout = Layout { run: directory.path().into(), state: directory.path().into(), share: "/share".into() };
    let clock: Clock = || NOW.get();
    let (state, kept) = State::open(&layout.database(), [1; 32], clock()).unwrap();
    let fake = Fake::default();
    let (manifest, current) = watch::channel(declared(directory.path(), true));
    let declared = current.borrow().clone();
    let (daemon, handle) = Daemon::new(fake.clone(), state.clone(), clock, layout.clone(), declared);
    let daemon = tokio::spawn(daemon.run(std::future::pending())).abort_handle();
    let app = App::new(current, handle, fake.clone(), (state, kept), layout, clock);
    let front = front(app.clone());
    Stage { app, front, daemon, fake, manifest, directory }
}

/// A request as nginx sends it for a site, and the site's origin.
struct Ask(axum::http::request::Builder, String);

impl Stage {
    fn ask(&self, method: &str, site: &str, target: &str) -> Ask {
        let parsed: Site = site.parse().unwrap();
        let manifest = self.app.manifest();
        let origin = match &parsed {
            Site::Workspace(label) => manifest.origin(label),
            _ => manifest.dashboard_origin(),
        };
        let host = origin.split_once("://").unwrap().1;
        let request = Request::builder().method(method).uri(target).header("x-csm-site", site).header("host", host);
        Ask(request.header("x-csm-method", method).header("x-csm-source", "10.0.0.1"), origin)
    }

    /// Creates a session. Returns it with its cookie.
    async fn signed_in(&self, name: &str) -> (Session, String) {
        let id = format!("session-of-{name}");
        let (session, cookie) = Session::new(name.parse().unwrap(), id, "secret", "credential".into(), self.app.now());
        self.app.state.insert_session(session.clone(), self.app.now()).await.unwrap();
        self.app.access().sessions.insert(session.clone());
        (session, format!("{}={cookie}", cookies::SESSION))
    }

    /// Another connection to the database.
    fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.app.layout.database()).unwrap()
    }

    /// The number of a user's sessions in the database, which a restart would restore.
    fn stored(&self, owner: &str) -> usize {
        self.database().query_row("SELECT count(*) FROM session WHERE owner = ?1", [owner], |row| row.get(0)).unwrap()
    }

    /// A session's cookie on a workspace's hostname.
    fn workspace_cookie(&self, session: &Session, site: &str) -> String {
        format!("{}={}", cookies::WORKSPACE, self.app.key.site_token(&session.id, &site.parse().unwrap()))
    }

    /// Waits until a workspace is in a state.
    async fn until(&self, name: &str, word: &str) {
        let id: WorkspaceId = name.parse().unwrap();
        let mut snapshots = self.app.daemon.follow();
        let reached = |now: &Arc<Snapshot>| now.workspaces.get(&id).is_some_and(|view| view.state.word() == word);
        let found = tokio::time::timeout(Duration::from_secs(60), snapshots.wait_for(reached)).await;
        drop(found.unwrap_or_else(|_| panic!("{name} never {word}: {:?}", self.app.daemon.snapshot())).unwrap());
    }

    async fn send(&self, request: Request) -> Response {
        self.front.clone().oneshot(request).await.unwrap()
    }
}

impl Ask {
    fn with(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value), self.1)
    }

    /// Sets the client's address.
    fn from(mut self, source: &str) -> Self {
        self.0.headers_mut().unwrap().insert("x-csm-source", source.parse().unwrap());
        self
    }

    fn own(self) -> Self {
        let origin = self.1.clone();
        self.with("origin", &origin)
    }

    fn bare(self) -> Request {
        self.0.body(Body::empty()).unwrap()
    }

    fn form(self, form: &str) -> Request {
        self.with("content-type", "application/x-www-form-urlencoded").0.body(Body::from(form.to_owned())).unwrap()
    }
}

/// The next bytes of a body; `None` when nothing comes for an hour.
async fn next(body: &mut axum::body::BodyDataStream) -> Option<Option<String>> {
    let next = tokio::time::timeout(Duration::from_secs(3600), body.next()).await.ok()?;
    Some(next.map(|bytes| String::from_utf8(bytes.unwrap().to_vec()).unwrap()))
}

#[tokio::test(start_paused = true)]
async fn a_followed_log_ends_with_the_session() {
    let stage = stage();
    let (_, cookie) = stage.signed_in("dan").await;
    let follow = stage.ask("GET", "dashboard", "/api/v1/workspaces/dan/logs?follow=true").with("cookie", &cookie);
    let mut body = stage.send(follow.bare()).await.into_body().into_data_stream();
    assert_eq!(next(&mut body).await, Some(Some("its last words\n".to_owned())));
    assert_eq!(next(&mut body).await, None, "the log is followed while the user is signed in");
    stage.send(stage.ask("POST", "dashboard", "/sign-out").own().with("cookie", &cookie).bare()).await;
    assert_eq!(next(&mut body).await, Some(None));
}

#[tokio::test(start_paused = true)]
async fn a_user_can_follow_eight_logs_at_a_time_and_the_operator_any_number() {
    const TARGET: &str = "/api/v1/workspaces/dan/logs?follow=true";
    let stage = stage();
    let (session, dan) = stage.signed_in("dan").await;
    let (_, grace) = stage.signed_in("grace").await;
    let ask = |cookie: &str| stage.send(stage.ask("GET", "dashboard", TARGET).with("cookie", cookie).bare());
    let mut followed = Vec::new();
    for _ in 0..8 {
        let mut body = ask(&dan).await.into_body().into_data_stream();
        assert_eq!(next(&mut body).await, Some(Some("its last words\n".to_owned())));
        followed.push(body);
    }
    let refused = ask(&dan).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let body = axum::body::to_bytes(refused.into_body(), 1000).await.unwrap();
    assert_eq!(body, r#"{"error":"You already follow 8 logs.","fix":"Close one, then try again."}"#);
    assert_eq!(ask(&grace).await.status(), StatusCode::OK, "each user's logs are counted separately");
    let unfollowed = stage.ask("GET", "dashboard", "/api/v1/workspaces/dan/logs").with("cookie", &dan).bare();
    assert_eq!(stage.send(unfollowed).await.status(), StatusCode::OK, "a log that ends is not counted");
    for _ in 0..3 {
        // A reader that disconnects is no longer counted, even if it has not read to the end.
        followed.pop();
        followed.push(ask(&dan).await.into_body().into_data_stream());
        assert_eq!(ask(&dan).await.status(), StatusCode::TOO_MANY_REQUESTS);
    }
    stage.app.access().sessions.remove("session-of-dan");
    for mut body in followed {
        while next(&mut body).await.expect("it ends with the session").is_some() {}
    }
    stage.app.access().sessions.insert(session);
    assert_eq!(ask(&dan).await.status(), StatusCode::OK, "no log is followed any more");

    let operator = api::operator_routes().with_state(stage.app.clone());
    let mut followed = Vec::new();
    for _ in 0..20 {
        let request = Request::builder().uri(TARGET).body(Body::empty()).unwrap();
        followed.push(operator.clone().oneshot(request).await.unwrap());
    }
    assert!(followed.iter().all(|response| response.status() == StatusCode::OK));
}

#[tokio::test]
async fn a_logs_page_has_a_size_limit_and_keeps_the_newest_lines() {
    let stage = stage();
    let (_, cookie) = stage.signed_in("dan").await;
    let lines = (0..200).map(|n| format!("{}{n}", "<".repeat(4000))).collect();
    stage.fake.world().printed = Some(lines);
    let page = stage.send(stage.ask("GET", "dashboard", "/workspaces/dan/log").with("cookie", &cookie).bare()).await;
    let page = axum::body::to_bytes(page.into_body(), 256 << 10).await.expect("at most 256 KiB");
    let page = String::from_utf8_lossy(&page);
    assert!(page.contains("&#60;199\n") && page.contains("… (188 earlier lines left out)\n"), "{page}");
}

#[tokio::test(start_paused = true)]
async fn a_followed_log_ends_when_the_user_may_no_longer_see_it() {
    let stage = stage();
    let (_, cookie) = stage.signed_in("grace").await;
    let follow = |of: &str| {
        let target = format!("/api/v1/workspaces/{of}/logs?follow=true");
        stage.send(stage.ask("GET", "dashboard", &target).with("cookie", &cookie).bare())
    };
    let mut of_dan = follow("dan").await.into_body().into_data_stream();
    let mut her_own = follow("grace").await.into_body().into_data_stream();
    for body in [&mut of_dan, &mut her_own] {
        assert_eq!(next(body).await, Some(Some("its last words\n".to_owned())));
    }
    stage.manifest.send_replace(declared(stage.directory.path(), false));
    assert_eq!(next(&mut of_dan).await, Some(None), "grace is not an admin any more");
    assert_eq!(next(&mut her_own).await, None);
    stage.app.access().sessions.remove("session-of-grace");
    assert_eq!(next(&mut her_own).await, Some(None));
}

#[tokio::test]
async fn a_sign_out_works_on_a_full_disk() {
    let stage = stage();
    let (_, cookie) = stage.signed_in("dan").await;
    let database = rusqlite::Connection::open(stage.app.layout.database()).unwrap();
    let full = "CREATE TRIGGER full BEFORE DELETE ON session BEGIN SELECT RAISE(ABORT, 'disk is full'); END";
    database.execute_batch(full).unwrap();
    let out = stage.send(stage.ask("POST", "dashboard", "/sign-out").own().with("cookie", &cookie).bare()).await;
    assert_eq!(out.status(), StatusCode::SEE_OTHER);
    let set: Vec<_> = out.headers().get_all(header::SET_COOKIE).iter().collect();
    assert_eq!(set, [&cookies::delete_partitioned(cookies::SESSION), &cookies::set(cookies::SESSION, "", 0)]);
    let again = stage.send(stage.ask("GET", "dashboard", "/").with("cookie", &cookie).bare()).await;
    assert_eq!(again.headers()[header::LOCATION], "/sign-in");
    let stored = || stage.stored("dan");
    stage.app.revoke().await;
    assert_eq!(stored(), 1);
    database.execute_batch("DROP TRIGGER full").unwrap();
    stage.app.revoke().await;
    assert_eq!(stored(), 0, "the next start would restore the session");
}

#[tokio::test]
async fn a_locked_database_delays_its_own_requests_and_no_others() {
    let stage = stage();
    let (_, dan) = stage.signed_in("dan").await;
    let of_grace = stage.workspace_cookie(&stage.signed_in("grace").await.0, "label:grace");
    let database = rusqlite::Connection::open(stage.app.layout.database()).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut out = Box::pin(stage.send(stage.ask("POST", "dashboard", "/sign-out").own().with("cookie", &dan).bare()));
    assert!(futures_util::poll!(&mut out).is_pending(), "a sign-out waits until its session is deleted");
    let question = stage.ask("GET", "label:grace", "/").with("cookie", &of_grace).bare();
    assert_eq!(authorize::handle(Shared(stage.app.clone()), question).await.status(), StatusCode::NO_CONTENT);
    database.execute_batch("COMMIT").unwrap();
    assert_eq!(out.await.status(), StatusCode::SEE_OTHER);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_workspace_that_never_settles_times_out() {
    let stage = stage();
    stage.fake.world().gated = true;
    let start = Request::builder().method("POST").uri("/api/v1/workspaces/dan/start?wait=true");
    let operator = api::operator_routes().with_state(stage.app.clone());
    let response =
        tokio::time::timeout(Duration::from_secs(3600), operator.oneshot(start.body(Body::empty()).unwrap()));
    let response = response.await.expect("a response").unwrap();
    let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
    let workspace: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&workspace["state"], &workspace["settled"]), (&"starting".into(), &false.into()), "{workspace}");
}

#[tokio::test]
async fn waiting_for_a_workspace_fails_if_the_daemon_ends() {
    let stage = stage();
    stage.fake.world().gated = true;
    let start = Request::builder().method("POST").uri("/api/v1/workspaces/dan/start?wait=true");
    let operator = api::operator_routes().with_state(stage.app.clone());
    let response = tokio::spawn(operator.oneshot(start.body(Body::empty()).unwrap()));
    stage.until("dan", "starting").await;
    stage.daemon.abort();
    assert_eq!(response.await.unwrap().unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn a_request_without_a_user_or_the_operators_socket_is_refused() {
    let stage = stage();
    stage.fake.put("dan", true);
    stage.until("dan", "running").await;
    let asks = [("GET", ""), ("GET", "/dan"), ("GET", "/dan/logs"), ("POST", "/dan/start"), ("POST", "/dan/stop")];
    for (method, rest) in asks {
        let request = || {
            let uri = format!("/api/v1/workspaces{rest}");
            Request::builder().method(method).uri(uri).body(Body::empty()).unwrap()
        };
        let anonymous = api::user_routes().with_state(stage.app.clone()).oneshot(request()).await.unwrap();
        assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED, "{method} {rest}");
        let words = axum::body::to_bytes(anonymous.into_body(), 1000).await.unwrap();
        assert_eq!(words, r#"{"error":"Signed out","fix":"Sign in and try again."}"#);
        stage.until("dan", "running").await;
        let operator = api::operator_routes().with_state(stage.app.clone()).oneshot(request()).await.unwrap();
        assert_eq!(operator.status(), StatusCode::OK, "{method} {rest}");
    }
    stage.until("dan", "stopped").await;
}
