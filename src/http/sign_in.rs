//! Signs users in and out: the form, the password check, the session.

use std::sync::Arc;

use axum::Form;
use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Query, State as Shared};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse as _, Redirect, Response};
use serde::Deserialize;

use super::app::{App, Counters};
use super::context::{Context, cookie, provenance, session, text};
use super::error::{Refusal, no_such_page};
use super::pages::{SignIn, page};
use crate::access::cookies;
use crate::access::handshake::Handshake;
use crate::access::limiter::{Attempt, Source};
use crate::access::session::{SESSION_LIFETIME, Session};
use crate::access::site::Site;
use crate::access::token::{Key, encode};
use crate::adapters::machine::random;
use crate::adapters::passwords::stored;
use crate::model::event::{Actor, Fact, Kind, Line};
use crate::model::label::{Label, WorkspaceId};
use crate::model::manifest::Owner;
use crate::model::name::Name;

/// How long a browser that signed in keeps its device cookie, in seconds: 180 days.
const DEVICE_LIFETIME: u64 = 180 * 86_400;

/// Deserializes a token or a code. Text with characters that csm's tokens never contain becomes empty, so that it can't get into an
/// address or a header.
pub(super) fn token_text<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    let valid = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    Ok(if valid { text } else { String::new() })
}

#[derive(Deserialize)]
pub(super) struct SignInQuery {
    #[serde(default, deserialize_with = "token_text")]
    handshake: String,
    /// The token of a user who has just signed out, see [`signed_out_token`].
    #[serde(default, deserialize_with = "token_text")]
    left: String,
}

#[derive(Deserialize)]
pub(super) struct Credentials {
    name: String,
    password: String,
    #[serde(default, deserialize_with = "token_text")]
    handshake: String,
}

pub(super) fn random_token() -> Result<String, Refusal> {
    random().map(encode).map_err(|error| {
        tracing::error!(%error, "can't get random bytes from the kernel");
        Refusal::Internal
    })
}

/// `GET /sign-in` on the dashboard.
pub(super) async fn form(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
    query: Result<Query<SignInQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query?;
    if session(&app, &context, &headers).is_some() {
        return Ok(Redirect::to(&after_sign_in(&query.handshake)).into_response());
    }
    let form = SignInForm { handshake: &query.handshake, left: &query.left, ..SignInForm::default() };
    Ok(sign_in_page(&app, &context, StatusCode::OK, form))
}

/// The address that a signed-in user is redirected to.
fn after_sign_in(handshake: &str) -> String {
    if handshake.is_empty() { "/".to_owned() } else { format!("/open?handshake={handshake}") }
}

/// What the sign-in form shows.
#[derive(Clone, Copy, Default)]
pub(super) struct SignInForm<'a> {
    handshake: &'a str,
    name: &'a str,
    error: &'a str,
    left: &'a str,
}

pub(super) fn sign_in_page(app: &App, context: &Context, status: StatusCode, form: SignInForm<'_>) -> Response {
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
    let left = signed_out_user(app, form.left);
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
    // The form's response redirects to a workspace's hostname, and browsers apply this policy to redirects too.
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
    form: Result<Form<Credentials>, FormRejection>,
) -> Result<Response, Refusal> {
    let Form(credentials) = form?;
    let verified = match check(&app, &context, &headers, &credentials).await? {
        Ok(verified) => verified,
        Err(form) => return Ok(form),
    };
    let device = match &verified.device {
        Some(id) => id.clone(),
        None => random_token()?,
    };
    let device = device_cookie(&app.key, &verified.owner, &device, &verified.credential);
    let (_, session_cookie) = create_session(&app, &headers, verified).await?;
    let set = AppendHeaders([
        (header::SET_COOKIE, cookies::set(cookies::SESSION, &session_cookie, SESSION_LIFETIME)),
        (header::SET_COOKIE, cookies::set(cookies::DEVICE, &device, DEVICE_LIFETIME)),
    ]);
    Ok((set, Redirect::to(&after_sign_in(&credentials.handshake))).into_response())
}

/// `POST /_csm/sign-in-here` on a loopback port: a browser at the end of a tunnel may not reach the dashboard.
pub(super) async fn sign_in_here(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
    form: Result<Form<Credentials>, FormRejection>,
) -> Result<Response, Refusal> {
    let Form(credentials) = form?;
    let Site::Loopback(workspace) = &context.site else {
        return Err(no_such_page().await);
    };
    let verified = match check(&app, &context, &headers, &credentials).await? {
        Ok(verified) => verified,
        Err(form) => return Ok(form),
    };
    if verified.owner != workspace.owner {
        return Err(not_owner(&verified.owner, &workspace.owner, false));
    }
    let (session, _) = create_session(&app, &headers, verified).await?;
    let token = app.key.site_token(&session.id, &context.site);
    let set = [(header::SET_COOKIE, cookies::set(cookies::WORKSPACE, &token, SESSION_LIFETIME))];
    Ok((set, Redirect::to("/")).into_response())
}

/// A user whose password was right.
struct Verified {
    owner: Name,
    credential: String,
    /// The id in the browser's device cookie, if that is valid.
    device: Option<String>,
}

/// The device cookie of a browser that signed in as this user. Its signature becomes invalid when the password changes.
fn device_cookie(key: &Key, owner: &Name, id: &str, credential: &str) -> String {
    format!("{owner}.{id}.{}", key.sign(&["device", owner.as_str(), id, credential]))
}

/// The id in this browser's device cookie, if it has signed in before with the user's current password.
async fn known_device(app: &App, headers: &HeaderMap, owner: &Owner) -> Option<String> {
    let cookie = cookie(headers, cookies::DEVICE)?;
    let (id, signature) = cookie.strip_prefix(owner.name.as_str())?.strip_prefix('.')?.split_once('.')?;
    let file = owner.password_file.path().to_owned();
    let content = tokio::task::spawn_blocking(move || stored(&file)).await.ok()??;
    let valid = app.key.verify(&["device", owner.name.as_str(), id, &app.credential(&content)], signature);
    valid.then(|| id.to_owned())
}

/// The browser's address, for events.
fn source(headers: &HeaderMap) -> Line {
    Line::new(text(headers, "x-csm-source"))
}

/// Checks name and password. If they are wrong, the inner error is the form with an error message.
async fn check(
    app: &App,
    context: &Context,
    headers: &HeaderMap,
    credentials: &Credentials,
) -> Result<Result<Verified, Response>, Refusal> {
    if !provenance(headers).is_own(&context.origin) {
        return Err(Refusal::CrossSite);
    }
    let manifest = app.manifest();
    let owner = credentials.name.trim().parse::<Name>().ok().and_then(|name| manifest.owners.get(&name));
    let device = match owner {
        Some(owner) => known_device(app, headers, owner).await,
        None => None,
    };
    let attempt = match &device {
        Some(device) => Attempt::KnownDevice(device.clone()),
        None => Attempt::UnknownDevice {
            source: Source::new(text(headers, "x-csm-source")),
            name: owner.map(|owner| owner.name.clone()),
        },
    };
    let charge = app.access().limiter.charge(app.now(), &attempt).map_err(|wait| Refusal::TooManyAttempts { wait })?;
    let file = owner.map(|owner| owner.password_file.path().to_owned());
    let Some(turn) = app.passwords.turn(device.is_some()).await else {
        app.access().limiter.refund(charge);
        return Err(Refusal::TooManyAttempts { wait: 5 });
    };
    let stored = turn.verify(file, credentials.password.clone()).await;
    let Some((owner, stored)) = owner.zip(stored) else {
        Counters::increment(&app.counters.refused);
        // Only declared names are recorded, because users sometimes type their password as the name.
        let declared = owner.map(|owner| owner.name.clone());
        app.daemon.record(Fact::of_user(declared, Kind::SignInRefused { source: source(headers) }));
        let error = "Wrong name or password.";
        let name = credentials.name.chars().take(40).collect::<String>();
        let form = SignInForm { handshake: &credentials.handshake, name: &name, error, left: "" };
        return Ok(Err(sign_in_page(app, context, StatusCode::UNAUTHORIZED, form)));
    };
    app.access().limiter.refund(charge);
    Ok(Ok(Verified { owner: owner.name.clone(), credential: app.credential(&stored), device }))
}

/// Creates and stores a session. Returns it with the value of its cookie.
async fn create_session(app: &App, headers: &HeaderMap, verified: Verified) -> Result<(Session, String), Refusal> {
    let (id, secret) = (random_token()?, random_token()?);
    let (session, cookie) = Session::new(verified.owner, id, &secret, verified.credential, app.now());
    app.state.insert_session(session.clone(), app.now()).await.map_err(|error| {
        tracing::error!(%error, "can't store a session");
        Refusal::Internal
    })?;
    let ended: Vec<String> = {
        let mut access = app.access();
        access.sessions.remove_expired(app.now());
        // A sign-in ends the browser's previous session, whichever user's it was.
        let previous = cookie_session(&access.sessions, headers, app.now());
        if let Some(id) = &previous {
            access.sessions.remove(id);
        }
        let oldest = access.sessions.insert_newest(session.clone());
        previous.into_iter().chain(oldest).collect()
    };
    app.end_sessions(ended).await;
    Counters::increment(&app.counters.signed_in);
    let actor = Some(Actor::User(session.owner.clone()));
    let signed_in = Fact::of_user(Some(session.owner.clone()), Kind::SignedIn { source: source(headers) });
    app.daemon.record(signed_in.by(actor));
    Ok((session, cookie))
}

fn cookie_session(sessions: &crate::access::session::Sessions, headers: &HeaderMap, now: u64) -> Option<String> {
    sessions.by_cookie(&cookie(headers, cookies::SESSION)?, now).map(|session| session.id.clone())
}

/// `POST /sign-out` on the dashboard: ends the session on all hostnames.
pub(super) async fn sign_out(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if !provenance(&headers).is_own(&context.origin) {
        return Err(Refusal::CrossSite);
    }
    let set = [(header::SET_COOKIE, cookies::set(cookies::SESSION, "", 0))];
    let Some(session) = session(&app, &context, &headers) else {
        return Ok((set, Redirect::to("/sign-in")).into_response());
    };
    app.end_sessions(vec![session.id.clone()]).await;
    let actor = Some(Actor::User(session.owner.clone()));
    app.daemon.record(Fact::of_user(Some(session.owner.clone()), Kind::SignedOut).by(actor));
    Ok((set, Redirect::to(&format!("/sign-in?left={}", signed_out_token(&app.key, &session.owner, app.now()))))
        .into_response())
}

/// A token, valid for a minute, that proves that a user has just signed out. A request without a session is no proof: another site's
/// page can make the browser send requests without cookies.
fn signed_out_token(key: &Key, owner: &Name, at: u64) -> String {
    format!("{owner}.{at}.{}", key.sign(&["left", owner.as_str(), &at.to_string()]))
}

/// The user in a valid [`signed_out_token`].
fn signed_out_user(app: &App, token: &str) -> Option<Name> {
    let mut parts = token.splitn(3, '.');
    let (owner, at, signature) = (parts.next()?, parts.next()?, parts.next()?);
    let recent = app.now().abs_diff(at.parse().ok()?) < 60;
    let valid = recent && app.key.verify(&["left", owner, at], signature);
    owner.parse().ok().filter(|owner| valid && app.manifest.borrow().owners.contains_key(owner))
}

/// `GET /_csm/clear` on a workspace's hostname: the page after a sign-out loads it as an image. The response makes the browser delete
/// what the editor stored, including service workers. Any page can load an image, so the request needs the sign-out's token.
pub(super) async fn clear(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
    query: Result<Query<SignInQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query?;
    let owner = context.site.workspace().map(|workspace| &workspace.owner);
    if session(&app, &context, &headers).is_some() || signed_out_user(&app, &query.left).as_ref() != owner {
        return Err(Refusal::CrossSite);
    }
    let forget = [
        (HeaderName::from_static("clear-site-data"), "\"cache\", \"storage\"".to_owned()),
        (header::SET_COOKIE, cookies::set(cookies::WORKSPACE, "", 0)),
    ];
    Ok((StatusCode::NO_CONTENT, forget).into_response())
}

/// The page for a visitor who is signed in as another user.
pub(super) fn not_owner(visitor: &Name, owner: &Name, at_dashboard: bool) -> Refusal {
    let text = format!("This workspace belongs to {owner}. You are signed in as {visitor}.");
    Refusal::NotOwner { text, at_dashboard }
}
