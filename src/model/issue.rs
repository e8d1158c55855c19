//! What is wrong with the input, where, and what to do about it.

use std::fmt;

use serde::Serialize;

use super::printed;

/// Whether an [`Issue`] stops the manifest from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The manifest is refused.
    Error,
    /// The manifest works, but probably not as meant.
    Warning,
}

/// One finding about the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Issue {
    /// Whether the manifest is refused for it.
    pub severity: Severity,
    /// Where it stands, as a path of keys: `users.dan.memoryLimit`; empty for the file as a whole.
    pub path: String,
    /// What stands there now, shortened; empty when nothing does.
    pub found: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl Issue {
    /// A finding that refuses the manifest.
    pub fn error(
        path: impl Into<String>,
        found: impl fmt::Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            path: path.into(),
            found: shorten(&found.to_string()),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// A finding that lets the manifest pass.
    pub fn warning(
        path: impl Into<String>,
        found: impl fmt::Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(path, found, problem, remedy) }
    }

    /// True when it refuses the manifest.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })?;
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        if !self.found.is_empty() {
            write!(f, ": found {}", self.found)?;
        }
        write!(f, ": {}; {}", self.problem, self.remedy)
    }
}

/// True when any finding refuses the manifest.
pub fn refused(issues: &[Issue]) -> bool {
    issues.iter().any(Issue::is_error)
}

/// A value that its type refuses: the problem and the remedy, in that order.
///
/// It travels through serde as one text; [`Invalid::split`] takes it apart again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {remedy}")]
pub struct Invalid {
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl Invalid {
    /// A refusal with its remedy.
    pub fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }

    /// Takes a message that may have been an [`Invalid`] apart into problem and remedy.
    pub fn split(message: &str) -> Option<(&str, &str)> {
        message.split_once("; ")
    }
}

/// At most 80 characters of a text, on one line, with nothing that a terminal obeys.
fn shorten(text: &str) -> String {
    let first: String = text.chars().take(80).collect();
    let mut out = printed::line(first.as_bytes());
    if text.chars().nth(80).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_values_stay_on_one_line_and_short() {
        let issue = Issue::error("a", "x\u{1b}[31m\n".repeat(40), "bad", "mend it");
        assert!(!issue.to_string().contains(['\n', '\u{1b}']));
        assert!(issue.found.ends_with('…'));
    }

    #[test]
    fn reads_as_one_sentence() {
        let issue = Issue::error("users.dan.memoryLimit", "\"2X\"", "not a size", "write \"2G\"");
        assert_eq!(issue.to_string(), "error: users.dan.memoryLimit: found \"2X\": not a size; write \"2G\"");
    }
}
