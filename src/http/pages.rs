//! The pages: askama templates, and the security headers of every response.

use std::time::{Duration, UNIX_EPOCH};

use askama::Template;
use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

use super::chart::Chart;
use crate::daemon::view::View;
use crate::model::digest::sha256_hex;
use crate::model::event::Event;
use crate::model::size::human_bytes;
use crate::model::workspace::{Progress, State, human_seconds};

const STYLE: &str = include_str!("../../share/web/style.css");
const ICON: &str = include_str!("../../share/web/icon.svg");
const SCRIPT: &str = include_str!("../../share/web/live.js");

/// The sign-in form.
#[derive(Template)]
#[template(path = "sign_in.html")]
pub(super) struct SignIn<'a> {
    pub(super) prefix: &'a str,
    pub(super) action: &'a str,
    pub(super) domain: &'a str,
    pub(super) handshake: &'a str,
    /// The hostname that opens after the sign-in, as text: `ada.code.example.org`.
    pub(super) destination: &'a str,
    pub(super) name: &'a str,
    pub(super) error: &'a str,
    /// An image whose response makes the browser forget what the editor of the user who signed out stored.
    pub(super) clear: Option<&'a str>,
}

/// The dashboard.
#[derive(Template)]
#[template(path = "dashboard.html")]
pub(super) struct Dashboard<'a> {
    pub(super) prefix: &'a str,
    pub(super) domain: &'a str,
    pub(super) owner: &'a str,
    pub(super) admin: bool,
    pub(super) cards: Vec<Card<'a>>,
    pub(super) notices: Notices<'a>,
}

/// The alarms and notes above the workspaces.
#[derive(Template)]
#[template(path = "notices.html")]
pub(super) struct Notices<'a> {
    pub(super) alarms: &'a [String],
    pub(super) notes: &'a [String],
}

/// One workspace on the dashboard.
#[derive(Template)]
#[template(path = "card.html")]
pub(super) struct Card<'a> {
    pub(super) view: &'a View,
    pub(super) csrf: &'a str,
    /// Whether the visitor is its owner, and so may open it.
    pub(super) own: bool,
    pub(super) now: u64,
    pub(super) disk_free: Option<u64>,
}

impl Card<'_> {
    fn is_running(&self) -> bool {
        matches!(self.view.state, State::Running { .. })
    }

    fn is_frozen(&self) -> bool {
        matches!(self.view.state, State::Frozen { .. })
    }

    /// Whether the workspace will be frozen or stopped if nothing happens in it. A frozen one can't be kept.
    fn is_ending(&self) -> bool {
        self.is_running() && self.view.activity.as_ref().is_some_and(|activity| activity.next.is_some())
    }

    fn is_stopped(&self) -> bool {
        !self.view.may_run
    }

    fn progress(&self) -> Option<String> {
        match &self.view.state {
            State::Starting(progress) => Some(progress.to_string()),
            _ => None,
        }
    }

    fn since(&self) -> String {
        let since = if let State::Running { since } = self.view.state { since } else { self.view.at };
        human_seconds(self.now.saturating_sub(since))
    }

    #[expect(clippy::unused_self, reason = "templates call methods")]
    fn bytes(&self, bytes: impl std::borrow::Borrow<u64>) -> String {
        human_bytes(*bytes.borrow())
    }

    fn cpu(&self) -> Option<String> {
        self.view.cpu.map(|millis| format!("{}.{}", millis / 1000, millis % 1000 / 100))
    }
}

/// The wake page.
#[derive(Template)]
#[template(path = "wake.html")]
pub(super) struct Wake<'a> {
    pub(super) prefix: &'a str,
    pub(super) label: &'a str,
    pub(super) dashboard: &'a str,
    pub(super) status: WakeStatus<'a>,
}

/// The part of the wake page that changes: the start's progress.
#[derive(Template)]
#[template(path = "wake_status.html")]
pub(super) struct WakeStatus<'a> {
    pub(super) view: &'a View,
}

impl WakeStatus<'_> {
    fn has_failed(&self) -> bool {
        self.view.state == State::Failed
    }

    fn percent(&self) -> Option<u8> {
        match self.view.state {
            State::Starting(Progress::Pulling { percent }) => percent,
            _ => None,
        }
    }

    fn text(&self) -> String {
        match &self.view.state {
            State::Starting(progress) => progress.to_string(),
            State::Running { .. } => "running; waiting for code-server to respond".to_owned(),
            state => state.word().to_owned(),
        }
    }
}

/// A workspace's log.
#[derive(Template)]
#[template(path = "log.html")]
pub(super) struct Log<'a> {
    pub(super) prefix: &'a str,
    pub(super) id: &'a str,
    pub(super) lines: &'a [String],
}

/// A workspace's events, and what it used over the last day.
#[derive(Template)]
#[template(path = "events.html")]
pub(super) struct Timeline<'a> {
    pub(super) prefix: &'a str,
    pub(super) id: &'a str,
    pub(super) charts: &'a [Chart],
    /// The newest first.
    pub(super) events: &'a [Event],
    pub(super) now: u64,
}

impl Timeline<'_> {
    #[expect(clippy::unused_self, reason = "templates call methods")]
    fn time(&self, event: &Event) -> String {
        // Years after 9999 can't be formatted.
        let at = UNIX_EPOCH + Duration::from_secs(event.at.min(253_402_300_799));
        humantime::format_rfc3339_seconds(at).to_string()
    }

    fn ago(&self, event: &Event) -> String {
        format!("{} ago", human_seconds(self.now.saturating_sub(event.at)))
    }
}

/// A page with a title and a text.
#[derive(Template)]
#[template(path = "message.html")]
struct MessageTemplate<'a> {
    prefix: &'a str,
    title: &'a str,
    text: &'a str,
    dashboard: bool,
}

/// A page with a title and a text, and its status.
pub(super) struct MessagePage {
    status: StatusCode,
    title: &'static str,
    text: String,
    dashboard: bool,
}

impl MessagePage {
    /// Creates the page. `dashboard`: whether it has a link to `/`, because that is the dashboard on this hostname.
    pub(super) fn new(status: StatusCode, title: &'static str, text: String, dashboard: bool) -> Self {
        Self { status, title, text, dashboard }
    }
}

impl IntoResponse for MessagePage {
    fn into_response(self) -> Response {
        // `/_csm` serves the static files on each of csm's hostnames.
        let (title, text, dashboard) = (self.title, &self.text, self.dashboard);
        page(self.status, &MessageTemplate { prefix: "/_csm", title, text, dashboard })
    }
}

/// Renders a page.
pub(super) fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(error) => {
            tracing::error!(%error, "can't render a page");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Renders a part of a page.
pub(super) fn part(template: &impl Template) -> String {
    template.render().unwrap_or_else(|error| {
        tracing::error!(%error, "can't render a part of a page");
        String::new()
    })
}

/// The routes of the style sheet, the script and the icon, under `prefix`.
pub(super) fn files<S: Clone + Send + Sync + 'static>(prefix: &str) -> Router<S> {
    let files = [
        ("style.css", STYLE, "text/css; charset=utf-8"),
        ("live.js", SCRIPT, "text/javascript; charset=utf-8"),
        ("icon.svg", ICON, "image/svg+xml"),
    ];
    files.into_iter().fold(Router::new(), |router, (name, content, content_type)| {
        let handler = move |headers: HeaderMap| async move { file(&headers, content, content_type) };
        router.route(&format!("{prefix}/static/{name}"), get(handler))
    })
}

fn file(headers: &HeaderMap, content: &'static str, content_type: &'static str) -> Response {
    let tag = format!("\"{}\"", &sha256_hex(content.as_bytes())[..16]);
    let fresh = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let status = if fresh { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let headers = [
        (header::CONTENT_TYPE, content_type.to_owned()),
        (header::ETAG, tag),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
    ];
    (status, headers, if fresh { "" } else { content }).into_response()
}

/// Adds the security headers, unless the response already has them.
pub(super) fn harden(mut response: Response) -> Response {
    let fixed = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
        // Not no-referrer, with which browsers send `Origin: null` for csm's own forms.
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // A page that opens one of csm's pages can't access its window.
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in fixed {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
