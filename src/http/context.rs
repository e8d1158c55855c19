//! Checks a request's hostname and headers once, before any handler uses them.

use std::borrow::Cow;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};

use crate::access::cookies;
use crate::access::request::Provenance;
use crate::access::session::Session;
use crate::access::site::Site;
use crate::model::manifest::Manifest;

use super::app::App;
use super::error::Refusal;

/// The site that a request is for.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) site: Site,
    pub(super) origin: String,
}

/// The headers that decide what a request may do, apart from `Host` and cookies. If one occurs twice, csm could check one value and the
/// workspace use the other.
const CHECKED_HEADERS: [&str; 6] =
    ["origin", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "sec-purpose", "accept"];

impl Context {
    /// Fails if nginx's server block and the `Host` header do not name the same hostname, or if a checked header is ambiguous.
    pub(super) fn of(headers: &HeaderMap, manifest: &Manifest) -> Result<Self, Refusal> {
        let site: Option<Site> = text(headers, "x-csm-site").parse().ok();
        let origin = site.as_ref().and_then(|site| site.origin(manifest, text(headers, header::HOST.as_str())));
        let Some((site, origin)) = site.zip(origin) else { return Err(Refusal::Misdirected) };
        if let Some(name) = CHECKED_HEADERS.into_iter().find(|name| is_ambiguous(headers, name)) {
            return Err(Refusal::AmbiguousHeader(name));
        }
        Ok(Self { site, origin })
    }
}

impl<S: Sync> FromRequestParts<S> for Context {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        parts.extensions.get::<Self>().cloned().ok_or(Refusal::Misdirected)
    }
}

fn is_ambiguous(headers: &HeaderMap, name: &str) -> bool {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => false,
        (Some(value), None) => value.to_str().is_err(),
        (Some(_), Some(_)) => true,
    }
}

/// A header's value; empty if the header is missing, unreadable or occurs twice.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().unwrap_or_default(),
        _ => "",
    }
}

/// All of a request's cookies: several `Cookie` headers are joined.
fn joined_cookies(headers: &HeaderMap) -> Cow<'_, [u8]> {
    let mut all = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    match (all.next().unwrap_or_default(), all.collect::<Vec<_>>()) {
        (first, rest) if rest.is_empty() => first.into(),
        (first, rest) => [&[first], rest.as_slice()].concat().join(&b';').into(),
    }
}

/// The value of one of csm's cookies.
pub(super) fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    cookies::find(&joined_cookies(headers), name).map(str::to_owned)
}

/// The names of csm's cookies that occur more than once.
pub(super) fn repeated_cookies(headers: &HeaderMap) -> Vec<&'static str> {
    cookies::repeated(&joined_cookies(headers)).collect()
}

/// The headers in which the browser reports where the request comes from.
pub(super) fn provenance(headers: &HeaderMap) -> Provenance<'_> {
    Provenance {
        method: text(headers, "x-csm-method"),
        upgrade: text(headers, "x-csm-upgrade"),
        origin: text(headers, header::ORIGIN.as_str()),
        fetch_site: text(headers, "sec-fetch-site"),
        fetch_mode: text(headers, "sec-fetch-mode"),
        fetch_dest: text(headers, "sec-fetch-dest"),
        purpose: text(headers, "sec-purpose"),
        accept: text(headers, header::ACCEPT.as_str()),
    }
}

/// The session of a request. The dashboard's cookie contains the session itself, another hostname's cookie a token for that site.
pub(super) fn session(app: &App, context: &Context, headers: &HeaderMap) -> Option<Session> {
    let now = app.now();
    let session = match &context.site {
        Site::Dashboard => app.access().sessions.by_cookie(&cookie(headers, cookies::SESSION)?, now).cloned()?,
        site => {
            let token = cookie(headers, cookies::WORKSPACE)?;
            let id = app.key.session_of_site_token(&token, site)?;
            app.access().sessions.get(id, now).cloned()?
        }
    };
    // A user who is no longer declared has no session.
    app.manifest.borrow().owners.contains_key(&session.owner).then_some(session)
}
