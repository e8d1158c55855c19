//! The handshake that turns a session on the dashboard's hostname into a cookie on a workspace's hostname.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse as _, Redirect, Response};
use serde::Deserialize;

use super::app::App;
use super::context::{Context, cookie, provenance, session, text};
use super::error::Refusal;
use super::sign_in::{SignInForm, not_owner, random_token, sign_in_page, token_text};
use crate::access::cookies;
use crate::access::handshake::{Handshake, PENDING_LIFETIME};
use crate::access::session::SESSION_LIFETIME;
use crate::access::site::Site;

/// The code is in the address, so the browser must not send it as the next page's referrer.
const NO_REFERRER: [(header::HeaderName, &str); 1] = [(header::REFERRER_POLICY, "no-referrer")];

#[derive(Deserialize)]
pub(super) struct OpenQuery {
    #[serde(default, deserialize_with = "token_text")]
    handshake: String,
}

#[derive(Deserialize)]
pub(super) struct CallbackQuery {
    #[serde(default, deserialize_with = "token_text")]
    code: String,
}

/// `/_csm/sign-in` on a workspace's hostname: nginx passes requests here whose visitor is not signed in on this hostname.
pub(super) async fn start_handshake(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let manifest = app.manifest();
    let known = context.site.workspace().is_some_and(|workspace| manifest.workspaces.contains_key(workspace));
    if !known {
        return Err(Refusal::NotFound("There is no workspace at this address.".to_owned(), "Check its spelling."));
    }
    if !provenance(&headers).is_navigation() {
        return Err(Refusal::SignedOut);
    }
    if matches!(context.site, Site::Loopback(_)) {
        return Ok(sign_in_page(&app, &context, StatusCode::OK, SignInForm::default()));
    }
    let nonce = cookie(&headers, cookies::NONCE).filter(|nonce| nonce.len() == 43);
    // An existing nonce is kept, because another tab's handshake may use it.
    let nonce = if let Some(nonce) = nonce { nonce } else { random_token()? };
    let handshake = Handshake::new(app.now(), &nonce, context.site, text(&headers, "x-csm-uri")).token(&app.key);
    let set = [(header::SET_COOKIE, cookies::set(cookies::NONCE, &nonce, PENDING_LIFETIME))];
    Ok((set, Redirect::to(&format!("{}/open?handshake={handshake}", manifest.dashboard_origin()))).into_response())
}

/// `GET /open` on the dashboard: completes a handshake if the session's user is the workspace's owner.
pub(super) async fn open(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
    query: Result<Query<OpenQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query?;
    let Some(session) = session(&app, &context, &headers) else {
        return Ok(Redirect::to(&format!("/sign-in?handshake={}", query.handshake)).into_response());
    };
    let manifest = app.manifest();
    let handshake = Handshake::from_token(&query.handshake, &app.key, app.now()).ok_or(Refusal::HandshakeExpired)?;
    let Site::Workspace(label) = &handshake.site else { return Err(Refusal::HandshakeExpired) };
    if label.workspace.owner != session.owner {
        return Err(not_owner(&session.owner, &label.workspace.owner, true));
    }
    let code = random_token()?;
    let callback = format!("{}/_csm/callback?code={code}", manifest.origin(label));
    app.access().codes.grant(app.now(), &code, handshake, &session.id, &session.owner);
    Ok((NO_REFERRER, Redirect::to(&callback)).into_response())
}

/// `GET /_csm/callback` on a workspace's hostname: redeems the code and sets that hostname's cookie.
pub(super) async fn callback(
    Shared(app): Shared<Arc<App>>,
    context: Context,
    headers: HeaderMap,
    query: Result<Query<CallbackQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query?;
    let nonce = cookie(&headers, cookies::NONCE).unwrap_or_default();
    let redeemed =
        app.access().codes.redeem(app.now(), &query.code, &context.site, &nonce).ok_or(Refusal::HandshakeExpired)?;
    let token = app.key.site_token(&redeemed.session, &context.site);
    let set = AppendHeaders([
        (header::SET_COOKIE, cookies::set(cookies::WORKSPACE, &token, SESSION_LIFETIME)),
        (header::SET_COOKIE, cookies::set(cookies::NONCE, "", 0)),
    ]);
    // The target follows this site's origin, so a target such as `//evil.example` remains a path.
    Ok((NO_REFERRER, set, Redirect::to(&format!("{}{}", context.origin, redeemed.target))).into_response())
}
