//! What went wrong with a request, and the page that says so.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::pages::Message;
use crate::ports::RuntimeError;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nobody is signed in.
    SignedOut,
    /// The request came from another site, or its token is stale.
    Foreign,
    /// Somebody is signed in who has no right to this.
    NotYours {
        /// Whose it is.
        whose: String,
        /// Whether `/` here is the dashboard.
        at_dashboard: bool,
    },
    /// There is no such thing.
    NotFound(String),
    /// The `Host` is not that of the server block which took the request: it names no host of ours, or another one.
    Misdirected,
    /// This header is there twice, or its value can't be read.
    Unclear(&'static str),
    /// Ports have hosts of their own.
    Closed,
    /// The handshake is over, or was never begun here.
    Stale,
    /// Too many wrong passwords.
    TooMany {
        /// Seconds to wait.
        wait: u64,
    },
    /// A person follows too many logs.
    TooManyLogs {
        /// How many they can.
        most: usize,
    },
    /// What runs workspaces could not do it.
    Runtime(RuntimeError),
    /// Our own fault; the log has the details.
    Internal,
}

/// Whose fault an error of the runtime is.
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
    /// Its status.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::SignedOut => StatusCode::UNAUTHORIZED,
            Self::Foreign | Self::NotYours { .. } => StatusCode::FORBIDDEN,
            Self::NotFound(_) | Self::Closed => StatusCode::NOT_FOUND,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Unclear(_) | Self::Stale => StatusCode::BAD_REQUEST,
            Self::TooMany { .. } | Self::TooManyLogs { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Runtime(error) => status_of(error),
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What it is, in a few words, and what to do.
    pub(super) fn words(&self) -> (&'static str, String) {
        match self {
            Self::SignedOut => ("Signed out", "Sign in and try again.".to_owned()),
            Self::Foreign => (
                "Request refused",
                "It did not come from this site's own pages. Go back, reload the page and try again.".to_owned(),
            ),
            Self::NotYours { whose, .. } => ("Not yours", whose.clone()),
            Self::NotFound(what) => ("Nothing here", what.clone()),
            Self::Misdirected => ("Unknown address", "This server has no page at this address.".to_owned()),
            Self::Unclear(name) => {
                ("Request refused", format!("The header {name} is there twice, or its value can't be read."))
            }
            Self::Closed => (
                "Not found",
                "The editor's address serves the editor alone. A port has an address of its own, such as 3000--NAME; the editor's Ports panel lists them."
                    .to_owned(),
            ),
            Self::Stale => (
                "This sign-in has expired",
                "It takes ten minutes at most, in the browser that began it. Open the address again.".to_owned(),
            ),
            Self::TooMany { wait } => ("Too many sign-in attempts", format!("Wait {wait} s, then try again.")),
            Self::TooManyLogs { most } => {
                ("Too many logs", format!("You follow {most} logs already. Close one, then try again."))
            }
            Self::Runtime(error) => {
                let title = match error {
                    RuntimeError::NotFound(_) => "Not found",
                    RuntimeError::NotRunning(_) => "Not running",
                    RuntimeError::StillRunning(_) => "Still running",
                    RuntimeError::Interrupted(_) => "Interrupted",
                    RuntimeError::Unavailable(_) => "Not available",
                    RuntimeError::TimedOut(_) => "No response in time",
                    RuntimeError::Refused(_) | RuntimeError::Failed { .. } => "Something failed",
                };
                (title, error.to_string())
            }
            Self::Internal => {
                ("Something failed", "The server's log has the details. Try again in a moment.".to_owned())
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (title, text) = self.words();
        let wait = if let Self::TooMany { wait } = self { Some(wait) } else { None };
        let dashboard = matches!(self, Self::NotYours { at_dashboard: true, .. });
        let mut response = Message::new(self.status(), title, text, dashboard).into_response();
        if let Some(wait) = wait {
            response.headers_mut().insert(header::RETRY_AFTER, wait.into());
        }
        response
    }
}

/// A refusal as JSON: `{"error": …, "remedy": …}`.
pub(super) struct ApiRefusal(Refusal);

impl From<Refusal> for ApiRefusal {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for ApiRefusal {
    fn into_response(self) -> Response {
        let (error, remedy) = self.0.words();
        (self.0.status(), Json(serde_json::json!({ "error": error, "remedy": remedy }))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_hangs_is_not_taken_for_something_that_does_not_exist() {
        let status = |error: fn(String) -> RuntimeError| Refusal::Runtime(error(String::new())).status().as_u16();
        assert_eq!(status(RuntimeError::NotFound), 404);
        assert_eq!(status(RuntimeError::Unavailable), 503);
        assert_eq!(status(RuntimeError::TimedOut), 504);
        assert_eq!(status(RuntimeError::Refused), 500);
        assert_eq!(status(RuntimeError::NotRunning), 409);
    }
}
