//! What a request says of itself, checked once.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use crate::access::cookies;
use crate::access::request::Provenance;
use crate::access::session::Session;
use crate::access::site::Site;
use crate::model::manifest::Manifest;

use super::app::App;
use super::error::Refusal;

/// The host that a request is for.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) site: Site,
    pub(super) origin: String,
}

/// What a request is judged by, besides `Host` and cookies. If one of these is there twice, each value could be meant: one could be
/// judged and the other used.
const JUDGED: [&str; 6] = ["origin", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "sec-purpose", "accept"];

impl Context {
    /// Refused when nginx's server block and the `Host` header do not name the same host of ours, and when the request can't be judged.
    pub(super) fn of(headers: &HeaderMap, manifest: &Manifest) -> Result<Self, Refusal> {
        let site: Option<Site> = text(headers, "x-csm-site").parse().ok();
        let origin = site.as_ref().and_then(|site| site.origin(manifest, text(headers, header::HOST.as_str())));
        let Some((site, origin)) = site.zip(origin) else { return Err(Refusal::Misdirected) };
        if let Some(name) = JUDGED.into_iter().find(|name| is_unclear(headers, name)) {
            return Err(Refusal::Unclear(name));
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

fn is_unclear(headers: &HeaderMap, name: &str) -> bool {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => false,
        (Some(value), None) => value.to_str().is_err(),
        (Some(_), Some(_)) => true,
    }
}

/// A header's text; empty when it is absent, unreadable or there twice.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().unwrap_or_default(),
        _ => "",
    }
}

/// The value of one of our cookies. Several `Cookie` headers count as one.
pub(super) fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut all = headers.get_all(header::COOKIE).iter();
    let first = all.next()?;
    let rest: Vec<_> = all.collect();
    if rest.is_empty() {
        return cookies::find(first.as_bytes(), name).map(str::to_owned);
    }
    let joined = rest.iter().fold(first.as_bytes().to_vec(), |mut joined, header| {
        joined.push(b';');
        joined.extend_from_slice(header.as_bytes());
        joined
    });
    cookies::find(&joined, name).map(str::to_owned)
}

/// Where the request comes from, as the visitor's browser says.
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

/// The session that a request proves: on the dashboard by the session itself, on other hosts by that host's token.
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
    // People who are no longer declared have no sessions.
    app.manifest.borrow().owners.contains_key(&session.owner).then_some(session)
}
