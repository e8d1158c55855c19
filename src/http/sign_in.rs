//! Signing in: the password, and the handshake from the dashboard's host to a workspace's.

use std::sync::Arc;

use axum::Form;
use axum::extract::{Query, State as Shared};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse as _, Redirect, Response};
use serde::Deserialize;

use super::app::{App, Counters};
use super::context::{Context, cookie, provenance, session, text};
use super::error::Refusal;
use super::pages::{SignIn, page};
use crate::access::cookies;
use crate::access::handshake::{Handshake, PENDING_LIFETIME};
use crate::access::limiter::{Attempt, Source};
use crate::access::session::{SESSION_LIFETIME, Session};
use crate::access::site::Site;
use crate::access::token::{Key, encode};
use crate::adapters::machine::random;
use crate::adapters::passwords::stored;
use crate::model::label::{Label, WorkspaceId};
use crate::model::manifest::Owner;
use crate::model::name::Name;

/// How long a browser that signed in keeps its mark, in seconds: 180 days.
const DEVICE_LIFETIME: u64 = 180 * 86_400;

/// Nothing that follows learns of the code in the address.
const NO_REFERRER: [(header::HeaderName, &str); 1] = [(header::REFERRER_POLICY, "no-referrer")];

/// A handshake's token or a code as ours are; anything else counts as none, before it gets into an address or a header.
fn ours<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    let ours = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    Ok(if ours { text } else { String::new() })
}

#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default, deserialize_with = "ours")]
    handshake: String,
}

#[derive(Deserialize)]
pub(super) struct FormAsked {
    #[serde(default, deserialize_with = "ours")]
    handshake: String,
    /// Says who has just signed out.
    #[serde(default, deserialize_with = "ours")]
    left: String,
}

#[derive(Deserialize)]
pub(super) struct Credentials {
    name: String,
    password: String,
    #[serde(default, deserialize_with = "ours")]
    handshake: String,
}

#[derive(Deserialize)]
pub(super) struct Given {
    #[serde(default, deserialize_with = "ours")]
    code: String,
}

fn token() -> Result<String, Refusal> {
    random().map(encode).map_err(|error| {
        tracing::error!(%error, "no random bytes");
        Refusal::Internal
    })
}

/// `GET /sign-in` on the dashboard.
pub(super) async fn form(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
    Query(asked): Query<FormAsked>,
) -> Response {
    if session(&app, &context, &headers).is_some() {
        return Redirect::to(&after_sign_in(&asked.handshake)).into_response();
    }
    let form = SignInForm { handshake: &asked.handshake, left: &asked.left, ..SignInForm::default() };
    sign_in_page(&app, &context, StatusCode::OK, form)
}

/// Where a person goes who has just signed in, or was signed in already.
fn after_sign_in(handshake: &str) -> String {
    if handshake.is_empty() { "/".to_owned() } else { format!("/open?handshake={handshake}") }
}

/// What the sign-in form shows.
#[derive(Clone, Copy, Default)]
struct SignInForm<'a> {
    handshake: &'a str,
    name: &'a str,
    error: &'a str,
    left: &'a str,
}

fn sign_in_page(app: &App, context: &Context, status: StatusCode, form: SignInForm<'_>) -> Response {
    let manifest = app.manifest();
    let host = |label: &dyn std::fmt::Display| format!("{label}.{}", manifest.domain);
    let destination = match &context.site {
        Site::Loopback(id) => host(id),
        _ => match Handshake::from_token(form.handshake, &app.key, app.now()).map(|handshake| handshake.site) {
            Some(Site::Workspace(label)) => host(&label),
            _ => String::new(),
        },
    };
    let (prefix, action) = match context.site {
        Site::Dashboard => ("", "/sign-in"),
        _ => ("/_csm", "/_csm/sign-in-here"),
    };
    let left = who_left(app, form.left);
    let editor = left.map(|name| manifest.origin(&Label::editor(WorkspaceId::main(name))));
    let clear = editor.as_ref().map(|origin| format!("{origin}/_csm/clear?left={}", form.left));
    let template = SignIn {
        prefix,
        action,
        domain: manifest.domain.as_str(),
        handshake: form.handshake,
        destination: &destination,
        name: form.name,
        error: form.error,
        clear: clear.as_deref(),
    };
    let mut response = page(status, &template);
    // The form's answer leads on to a workspace's host, and browsers hold redirects against this policy too.
    let policy = format!(
        "default-src 'none'; style-src 'self'; img-src 'self' {}; form-action 'self' {}://*.{}{}; base-uri 'none'; frame-ancestors 'none'",
        editor.unwrap_or_default(),
        manifest.scheme(),
        manifest.domain,
        manifest.port_suffix(),
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// `POST /sign-in` on the dashboard.
pub(super) async fn sign_in(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
    Form(given): Form<Credentials>,
) -> Result<Response, Refusal> {
    let proven = match check(&app, &context, &headers, &given).await? {
        Ok(proven) => proven,
        Err(refused) => return Ok(refused),
    };
    let mark = match &proven.mark {
        Some(id) => id.clone(),
        None => token()?,
    };
    let mark = mark_cookie(&app.key, &proven.owner, &mark, &proven.credential);
    let (_, secret) = begin_session(&app, &headers, proven).await?;
    let set = AppendHeaders([
        (header::SET_COOKIE, cookies::set(cookies::SESSION, &secret, SESSION_LIFETIME)),
        (header::SET_COOKIE, cookies::set(cookies::DEVICE, &mark, DEVICE_LIFETIME)),
    ]);
    Ok((set, Redirect::to(&after_sign_in(&given.handshake))).into_response())
}

/// `POST /_csm/sign-in-here` on a tunnel's end, where the dashboard may be out of reach.
pub(super) async fn sign_in_here(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
    Form(given): Form<Credentials>,
) -> Result<Response, Refusal> {
    let Site::Loopback(workspace) = &context.site else {
        return Err(Refusal::NotFound("There is no such page.".to_owned()));
    };
    let proven = match check(&app, &context, &headers, &given).await? {
        Ok(proven) => proven,
        Err(refused) => return Ok(refused),
    };
    if proven.owner != workspace.owner {
        return Err(not_yours(&proven.owner, &workspace.owner, false));
    }
    let (session, _) = begin_session(&app, &headers, proven).await?;
    let token = app.key.site_token(&session.id, &context.site);
    let set = [(header::SET_COOKIE, cookies::set(cookies::WORKSPACE, &token, SESSION_LIFETIME))];
    Ok((set, Redirect::to("/")).into_response())
}

/// Somebody who knew the password.
struct Proven {
    owner: Name,
    credential: String,
    /// The id of the valid mark that the browser has.
    mark: Option<String>,
}

/// The cookie of a browser that signed in as this person. With another password its signature is no longer valid.
fn mark_cookie(key: &Key, owner: &Name, id: &str, credential: &str) -> String {
    format!("{owner}.{id}.{}", key.sign(&["device", owner.as_str(), id, credential]))
}

/// The id of this browser's mark, if it signed in before with the password that the person has now.
async fn valid_mark(app: &App, headers: &HeaderMap, owner: &Owner) -> Option<String> {
    let cookie = cookie(headers, cookies::DEVICE)?;
    let (id, signature) = cookie.strip_prefix(owner.name.as_str())?.strip_prefix('.')?.split_once('.')?;
    let file = owner.password_file.path().to_owned();
    let content = tokio::task::spawn_blocking(move || stored(&file)).await.ok()??;
    let valid = app.key.verify(&["device", owner.name.as_str(), id, &app.credential(&content)], signature);
    valid.then(|| id.to_owned())
}

/// The name of a sign-in that failed, for the log. People type passwords there: only names that are declared are logged.
fn loggable_name(owner: Option<&Owner>) -> &str {
    owner.map_or("(unknown name)", |owner| owner.name.as_str())
}

/// Whether name and password belong together. The inner error is the form again.
async fn check(
    app: &App,
    context: &Context,
    headers: &HeaderMap,
    given: &Credentials,
) -> Result<Result<Proven, Response>, Refusal> {
    if !provenance(headers).is_own(&context.origin) {
        return Err(Refusal::Foreign);
    }
    let manifest = app.manifest();
    let owner = given.name.trim().parse::<Name>().ok().and_then(|name| manifest.owners.get(&name));
    let mark = match owner {
        Some(owner) => valid_mark(app, headers, owner).await,
        None => None,
    };
    let attempt = match &mark {
        Some(mark) => Attempt::KnownDevice(mark.clone()),
        None => Attempt::UnknownDevice {
            source: Source::new(text(headers, "x-csm-source")),
            name: owner.map(|owner| owner.name.clone()),
        },
    };
    let charge = app.access().limiter.charge(app.now(), &attempt).map_err(|wait| Refusal::TooMany { wait })?;
    let file = owner.map(|owner| owner.password_file.path().to_owned());
    let Some(turn) = app.passwords.turn(mark.is_some()).await else {
        app.access().limiter.refund(charge);
        return Err(Refusal::TooMany { wait: 5 });
    };
    let stored = turn.verify(file, given.password.clone()).await;
    let Some((owner, stored)) = owner.zip(stored) else {
        Counters::count(&app.counters.refused);
        tracing::warn!(name = loggable_name(owner), source = text(headers, "x-csm-source"), "sign-in refused");
        let error = "That name and password do not belong together.";
        let name = given.name.chars().take(40).collect::<String>();
        let form = SignInForm { handshake: &given.handshake, name: &name, error, left: "" };
        return Ok(Err(sign_in_page(app, context, StatusCode::UNAUTHORIZED, form)));
    };
    app.access().limiter.refund(charge);
    Ok(Ok(Proven { owner: owner.name.clone(), credential: app.credential(&stored), mark }))
}

/// A session, and the value of its cookie.
async fn begin_session(app: &App, headers: &HeaderMap, proven: Proven) -> Result<(Session, String), Refusal> {
    let (id, secret) = (token()?, token()?);
    let (session, cookie) = Session::new(proven.owner, id, &secret, proven.credential, app.now());
    app.state.insert_session(session.clone(), app.now()).await.map_err(|error| {
        tracing::error!(%error, "a session could not be kept");
        Refusal::Internal
    })?;
    let ended: Vec<String> = {
        let mut access = app.access();
        access.sessions.remove_expired(app.now());
        // A sign-in ends the browser's session before it, whosever it was.
        let before = cookie_session(&access.sessions, headers, app.now());
        if let Some(id) = &before {
            access.sessions.remove(id);
        }
        let oldest = access.sessions.insert_newest(session.clone());
        before.into_iter().chain(oldest).collect()
    };
    app.end_sessions(ended).await;
    Counters::count(&app.counters.signed_in);
    tracing::info!(owner = %session.owner, source = text(headers, "x-csm-source"), "signed in");
    Ok((session, cookie))
}

fn cookie_session(sessions: &crate::access::session::Sessions, headers: &HeaderMap, now: u64) -> Option<String> {
    sessions.by_cookie(&cookie(headers, cookies::SESSION)?, now).map(|session| session.id.clone())
}

/// `POST /sign-out` on the dashboard: the session ends everywhere.
pub(super) async fn sign_out(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if !provenance(&headers).is_own(&context.origin) {
        return Err(Refusal::Foreign);
    }
    let set = [(header::SET_COOKIE, cookies::set(cookies::SESSION, "", 0))];
    let Some(session) = session(&app, &context, &headers) else {
        return Ok((set, Redirect::to("/sign-in")).into_response());
    };
    app.end_sessions(vec![session.id.clone()]).await;
    tracing::info!(owner = %session.owner, "signed out");
    Ok((set, Redirect::to(&format!("/sign-in?left={}", left_token(&app.key, &session.owner, app.now()))))
        .into_response())
}

/// Says for a minute that a user has just signed out. Only a sign-out makes one: a request without a session proves nothing, as
/// another site's page can cause requests without cookies.
fn left_token(key: &Key, owner: &Name, at: u64) -> String {
    format!("{owner}.{at}.{}", key.sign(&["left", owner.as_str(), &at.to_string()]))
}

/// The user of [`left_token`].
fn who_left(app: &App, token: &str) -> Option<Name> {
    let mut parts = token.splitn(3, '.');
    let (owner, at, signature) = (parts.next()?, parts.next()?, parts.next()?);
    let recent = app.now().abs_diff(at.parse().ok()?) < 60;
    let good = recent && app.key.verify(&["left", owner, at], signature);
    owner.parse().ok().filter(|owner| good && app.manifest.borrow().owners.contains_key(owner))
}

/// `/_csm/sign-in` on a workspace's host: nginx sends everyone here who is not signed in there.
pub(super) async fn begin(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let manifest = app.manifest();
    let known = context.site.workspace().is_some_and(|workspace| manifest.workspaces.contains_key(workspace));
    if !known {
        return Err(Refusal::NotFound("No workspace has this address. Check its spelling.".to_owned()));
    }
    if !provenance(&headers).is_navigation() {
        return Err(Refusal::SignedOut);
    }
    if matches!(context.site, Site::Loopback(_)) {
        return Ok(sign_in_page(&app, &context, StatusCode::OK, SignInForm::default()));
    }
    let nonce = cookie(&headers, cookies::NONCE).filter(|nonce| nonce.len() == 43);
    // Another tab's handshake keeps its nonce.
    let nonce = if let Some(nonce) = nonce { nonce } else { token()? };
    let handshake = Handshake::new(app.now(), &nonce, context.site, text(&headers, "x-csm-uri")).token(&app.key);
    let set = [(header::SET_COOKIE, cookies::set(cookies::NONCE, &nonce, PENDING_LIFETIME))];
    Ok((set, Redirect::to(&format!("{}/open?handshake={handshake}", manifest.dashboard_origin()))).into_response())
}

/// `GET /open` on the dashboard: grants a handshake to a session that has the right.
pub(super) async fn open(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Result<Response, Refusal> {
    let Some(session) = session(&app, &context, &headers) else {
        return Ok(Redirect::to(&format!("/sign-in?handshake={}", asked.handshake)).into_response());
    };
    let manifest = app.manifest();
    let handshake = Handshake::from_token(&asked.handshake, &app.key, app.now()).ok_or(Refusal::Stale)?;
    let Site::Workspace(label) = &handshake.site else { return Err(Refusal::Stale) };
    if label.workspace.owner != session.owner {
        return Err(not_yours(&session.owner, &label.workspace.owner, true));
    }
    let code = token()?;
    let callback = format!("{}/_csm/callback?code={code}", manifest.origin(label));
    app.access().codes.grant(app.now(), &code, handshake, &session.id, &session.owner);
    Ok((NO_REFERRER, Redirect::to(&callback)).into_response())
}

/// `GET /_csm/callback` on a workspace's host: takes the code for that host's cookie.
pub(super) async fn callback(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
    Query(given): Query<Given>,
) -> Result<Response, Refusal> {
    let nonce = cookie(&headers, cookies::NONCE).unwrap_or_default();
    let redeemed = app.access().codes.redeem(app.now(), &given.code, &context.site, &nonce).ok_or(Refusal::Stale)?;
    let token = app.key.site_token(&redeemed.session, &context.site);
    let set = AppendHeaders([
        (header::SET_COOKIE, cookies::set(cookies::WORKSPACE, &token, SESSION_LIFETIME)),
        (header::SET_COOKIE, cookies::set(cookies::NONCE, "", 0)),
    ]);
    // With our own origin in front: a target such as `//evil.example` stays a path.
    Ok((NO_REFERRER, set, Redirect::to(&format!("{}{}", context.origin, redeemed.target))).into_response())
}

/// `GET /_csm/clear` on a workspace's host: the page after a sign-out shows it as an image. The browser forgets what the editor
/// stored, service workers too. Any page can show an image, so it takes what only that sign-out made.
pub(super) async fn clear(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
    Query(asked): Query<FormAsked>,
) -> Result<Response, Refusal> {
    let owner = context.site.workspace().map(|workspace| &workspace.owner);
    if session(&app, &context, &headers).is_some() || who_left(&app, &asked.left).as_ref() != owner {
        return Err(Refusal::Foreign);
    }
    let forget = [
        (HeaderName::from_static("clear-site-data"), "\"cache\", \"storage\"".to_owned()),
        (header::SET_COOKIE, cookies::set(cookies::WORKSPACE, "", 0)),
    ];
    Ok((StatusCode::NO_CONTENT, forget).into_response())
}

/// The page for a person who is signed in as somebody else.
fn not_yours(visitor: &Name, owner: &Name, at_dashboard: bool) -> Refusal {
    let whose = format!("This workspace belongs to {owner}. You are signed in as {visitor}.");
    Refusal::NotYours { whose, at_dashboard }
}
