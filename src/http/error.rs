//! Why a request is refused, and the page or JSON that says so.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::pages::Message;
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
    /// The requested thing does not exist.
    NotFound(String),
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
            Self::NotFound(_) | Self::EditorOnly => StatusCode::NOT_FOUND,
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

    /// The title, and the text that says what to do.
    pub(super) fn title_and_text(&self) -> (&'static str, String) {
        match self {
            Self::SignedOut => ("Signed out", "Sign in and try again.".to_owned()),
            Self::CrossSite => (
                "Request refused",
                "The request did not come from a page of this site. Go back, reload the page and try again.".to_owned(),
            ),
            Self::NotOwner { text, .. } => ("Not your workspace", text.clone()),
            Self::NotFound(what) => ("Not found", what.clone()),
            Self::Misdirected => ("Unknown address", "This server has no page at this address.".to_owned()),
            Self::AmbiguousHeader(name) => {
                ("Request refused", format!("The header {name} occurs twice, or its value can't be read."))
            }
            Self::EditorOnly => (
                "Not found",
                "The editor's address serves only the editor. Each port has a separate address, such as 3000--NAME; the editor's Ports panel lists them."
                    .to_owned(),
            ),
            Self::HandshakeExpired => (
                "This sign-in has expired",
                "Open the address again, and finish signing in within 10 minutes, in the same browser.".to_owned(),
            ),
            Self::TooManyAttempts { wait } => ("Too many sign-in attempts", format!("Wait {wait} s, then try again.")),
            Self::TooManyLogs { max } => {
                ("Too many logs", format!("You already follow {max} logs. Close one, then try again."))
            }
            Self::TooManyPages { max } => {
                ("Too many pages", format!("{max} pages of yours are open already. Close one, then try again."))
            }
            Self::NoResponse => (
                "No response",
                "code-server closed the connection without a response. Check the address, or see the workspace's log."
                    .to_owned(),
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
                (title, error.to_string())
            }
            Self::Internal => {
                ("Internal error", "Try again later. Your administrator can find the details in csm's log.".to_owned())
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (title, text) = self.title_and_text();
        let wait = if let Self::TooManyAttempts { wait } = self { Some(wait) } else { None };
        let dashboard = matches!(self, Self::NotOwner { at_dashboard: true, .. });
        let mut response = Message::new(self.status(), title, text, dashboard).into_response();
        if let Some(wait) = wait {
            response.headers_mut().insert(header::RETRY_AFTER, wait.into());
        }
        response
    }
}

/// A refusal as JSON: `{"error": …, "fix": …}`.
pub(super) struct ApiRefusal(Refusal);

impl From<Refusal> for ApiRefusal {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for ApiRefusal {
    fn into_response(self) -> Response {
        let (error, fix) = self.0.title_and_text();
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
