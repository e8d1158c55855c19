//! Why a request is refused, and the page or JSON that says so.

use axum::Json;
use axum::extract::rejection::{FormRejection, PathRejection, QueryRejection, StringRejection};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::pages::MessagePage;
use crate::model::issue::Invalid;
use crate::ports::RuntimeError;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The visitor is not signed in.
    SignedOut,
    /// The request came from another site's page, or its token has expired.
    CrossSite,
    /// The visitor is signed in, but is not the owner.
    NotOwner {
        /// Names the owner and the visitor.
        text: String,
        /// Whether `/` on this hostname is the dashboard.
        at_dashboard: bool,
    },
    /// The requested thing does not exist: what, and the fix.
    NotFound(String, &'static str),
    /// The request can't be read.
    Malformed {
        /// The status that says why.
        status: StatusCode,
        /// What can't be read, and why.
        problem: String,
        /// The fix.
        fix: &'static str,
    },
    /// The address exists, but not for this method.
    WrongMethod(Method),
    /// The `Host` header does not match nginx's server block: it is not a hostname of csm, or another one.
    Misdirected,
    /// This header occurs twice, or its value can't be read.
    AmbiguousHeader(&'static str),
    /// The path is a port's, on an editor's hostname. Ports have separate hostnames.
    EditorOnly,
    /// The handshake has expired, or another browser started it.
    HandshakeExpired,
    /// Too many sign-in attempts.
    TooManyAttempts {
        /// Seconds to wait.
        wait: u64,
    },
    /// The user follows too many logs.
    TooManyLogs {
        /// How many logs a user can follow.
        max: usize,
    },
    /// Too many of the user's pages receive events.
    TooManyPages {
        /// How many pages of a user can receive events.
        max: usize,
    },
    /// code-server runs, but did not respond to this request.
    NoResponse,
    /// The runtime failed.
    Runtime(RuntimeError),
    /// An error in csm. The log has the details.
    Internal,
}

/// The status for an error of the runtime.
fn status_of(error: &RuntimeError) -> StatusCode {
    match error {
        RuntimeError::NotFound(_) => StatusCode::NOT_FOUND,
        RuntimeError::NotRunning(_) | RuntimeError::StillRunning(_) | RuntimeError::Interrupted(_) => {
            StatusCode::CONFLICT
        }
        RuntimeError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        RuntimeError::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
        RuntimeError::Refused(_) | RuntimeError::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Refusal {
    /// The response's status.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::SignedOut => StatusCode::UNAUTHORIZED,
            Self::CrossSite | Self::NotOwner { .. } => StatusCode::FORBIDDEN,
            Self::NotFound(..) | Self::EditorOnly => StatusCode::NOT_FOUND,
            Self::Malformed { status, .. } => *status,
            Self::WrongMethod(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::AmbiguousHeader(_) | Self::HandshakeExpired => StatusCode::BAD_REQUEST,
            Self::TooManyAttempts { .. } | Self::TooManyLogs { .. } | Self::TooManyPages { .. } => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::NoResponse => StatusCode::BAD_GATEWAY,
            Self::Runtime(error) => status_of(error),
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What people read.
    fn message(&self) -> Message {
        let message = |title, problem: &str, fix: &str| Message { title, problem: problem.into(), fix: fix.into() };
        match self {
            Self::SignedOut => message("Signed out", "", "Sign in and try again."),
            Self::CrossSite => message(
                "Request refused",
                "The request did not come from a page of this site.",
                "Go back, reload the page and try again.",
            ),
            Self::NotOwner { text, .. } => message("Not your workspace", text, ""),
            Self::NotFound(what, fix) => message("Not found", what, fix),
            Self::Malformed { problem, fix, .. } => message("Request refused", problem, fix),
            Self::WrongMethod(method) => message(
                "Request refused",
                &format!("This address does not accept the method {method}."),
                "Use the method that its page or docs/api.md shows.",
            ),
            Self::Misdirected => {
                message("Unknown address", "This server has no page at this address.", "Check its spelling.")
            }
            Self::AmbiguousHeader(name) => message(
                "Request refused",
                &format!("The header {name} occurs twice, or its value can't be read."),
                "Remove what a browser extension or a proxy adds to it.",
            ),
            Self::EditorOnly => message(
                "Not found",
                "The editor's address serves only the editor.",
                "Each port has a separate address, such as 3000--NAME; the editor's Ports panel lists them.",
            ),
            Self::HandshakeExpired => message(
                "This sign-in has expired",
                "",
                "Open the address again, and finish signing in within 10 minutes, in the same browser.",
            ),
            Self::TooManyAttempts { wait } => {
                message("Too many sign-in attempts", "", &format!("Wait {wait} s, then try again."))
            }
            Self::TooManyLogs { max } => {
                message("Too many logs", &format!("You already follow {max} logs."), "Close one, then try again.")
            }
            Self::TooManyPages { max } => message(
                "Too many pages",
                &format!("{max} pages of yours are open already."),
                "Close one, then try again.",
            ),
            Self::NoResponse => message(
                "No response",
                "code-server closed the connection without a response, or its response is invalid.",
                "Check the address, or see the workspace's log.",
            ),
            Self::Runtime(error) => {
                let title = match error {
                    RuntimeError::NotFound(_) => "Not found",
                    RuntimeError::NotRunning(_) => "Not running",
                    RuntimeError::StillRunning(_) => "Still running",
                    RuntimeError::Interrupted(_) => "Interrupted",
                    RuntimeError::Unavailable(_) => "Not available",
                    RuntimeError::TimedOut(_) => "No response in time",
                    RuntimeError::Refused(_) | RuntimeError::Failed { .. } => "Operation failed",
                };
                let text = error.to_string();
                let (problem, fix) = Invalid::split(&text).unwrap_or((&text, "see the workspace's log"));
                message(title, problem, fix)
            }
            Self::Internal => {
                message("Internal error", "", "Try again later. Your administrator can find the details in csm's log.")
            }
        }
    }
}

/// A title, what is wrong if the title does not say it, and the fix. They are sentences, or the parts of a message like `can't VERB THING:
/// CAUSE; FIX`.
struct Message {
    title: &'static str,
    problem: String,
    fix: String,
}

/// Why a part of a request can't be read, in the words of its parser. axum puts its own before them.
fn unreadable(status: StatusCode, part: &str, text: &str, fix: &'static str) -> Refusal {
    let cause = text.split_once(": ").map_or(text, |(_, cause)| cause).trim_end_matches('.');
    let problem = match status {
        StatusCode::PAYLOAD_TOO_LARGE => "The body is too large.".to_owned(),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "The body is not a form.".to_owned(),
        _ => format!("Can't read the {part}: {cause}."),
    };
    Refusal::Malformed { status, problem, fix }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        unreadable(rejection.status(), "address", &rejection.body_text(), "Correct what follows the question mark.")
    }
}

impl From<PathRejection> for Refusal {
    fn from(rejection: PathRejection) -> Self {
        unreadable(rejection.status(), "address", &rejection.body_text(), "Correct the address.")
    }
}

impl From<StringRejection> for Refusal {
    fn from(rejection: StringRejection) -> Self {
        unreadable(rejection.status(), "body", &rejection.body_text(), "Send UTF-8 text of at most 16 MiB.")
    }
}

impl From<FormRejection> for Refusal {
    fn from(rejection: FormRejection) -> Self {
        unreadable(rejection.status(), "form", &rejection.body_text(), "Go back, reload the page and try again.")
    }
}

/// Refuses a request for a page that does not exist.
pub(super) async fn no_such_page() -> Refusal {
    Refusal::NotFound("There is no such page.".to_owned(), "Check the address.")
}

/// Refuses a request with a method that its address does not accept.
pub(super) async fn wrong_method(method: Method) -> Refusal {
    Refusal::WrongMethod(method)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Message { title, problem, fix } = self.message();
        let glue = if problem.is_empty() || fix.is_empty() || problem.ends_with('.') { " " } else { "; " };
        let text = [problem, fix].join(glue).trim().to_owned();
        let wait = if let Self::TooManyAttempts { wait } = self { Some(wait) } else { None };
        let dashboard = matches!(self, Self::NotOwner { at_dashboard: true, .. });
        let mut response = MessagePage::new(self.status(), title, text, dashboard).into_response();
        if let Some(wait) = wait {
            response.headers_mut().insert(header::RETRY_AFTER, wait.into());
        }
        response
    }
}

/// A refusal as JSON: `{"error": …, "fix": …}`.
pub(super) struct ApiRefusal(Refusal);

impl<T: Into<Refusal>> From<T> for ApiRefusal {
    fn from(refusal: T) -> Self {
        Self(refusal.into())
    }
}

impl IntoResponse for ApiRefusal {
    fn into_response(self) -> Response {
        let Message { title, problem, fix } = self.0.message();
        let error = if problem.is_empty() { title } else { &problem };
        (self.0.status(), Json(serde_json::json!({ "error": error, "fix": fix }))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_the_runtime_has_its_status() {
        let status = |error: fn(String) -> RuntimeError| Refusal::Runtime(error(String::new())).status().as_u16();
        assert_eq!(status(RuntimeError::NotFound), 404);
        assert_eq!(status(RuntimeError::Unavailable), 503);
        assert_eq!(status(RuntimeError::TimedOut), 504);
        assert_eq!(status(RuntimeError::Refused), 500);
        assert_eq!(status(RuntimeError::NotRunning), 409);
    }
}
