//! Problems found in the manifest: where, what, and the fix.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::printed;

/// Whether csm can use a manifest that has an [`Issue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// csm refuses the manifest.
    Error,
    /// csm accepts the manifest, but it probably does not do what its author intended.
    Warning,
}

/// A problem in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    /// Whether csm refuses the manifest because of it.
    pub severity: Severity,
    /// The field, as a path of keys: `users.dan.memoryLimit`; empty for the whole file.
    pub path: String,
    /// The field's current value, shortened; empty if the field is not set.
    pub found: String,
    /// What is wrong with the value.
    pub problem: String,
    /// The fix.
    pub fix: String,
}

impl Issue {
    /// Creates an issue because of which csm refuses the manifest.
    pub fn error(
        path: impl Into<String>,
        found: impl fmt::Display,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            path: path.into(),
            found: shorten(&found.to_string()),
            problem: problem.into(),
            fix: fix.into(),
        }
    }

    /// Creates an issue with which csm still accepts the manifest.
    pub fn warning(
        path: impl Into<String>,
        found: impl fmt::Display,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(path, found, problem, fix) }
    }

    /// True if csm refuses the manifest because of it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let mut line = severity.to_owned();
        for (before, part) in [(": ", &self.path), (": found ", &self.found), (": ", &self.problem), ("; ", &self.fix)]
        {
            if !part.is_empty() {
                line.extend([before, part]);
            }
        }
        // The path contains keys as they are in the file.
        f.write_str(&printed::escape_line(line.as_bytes()))
    }
}

/// True if any of the issues is an error.
pub fn has_errors(issues: &[Issue]) -> bool {
    issues.iter().any(Issue::is_error)
}

/// Why a type refuses a value: the problem and the fix.
///
/// serde carries it as one message; [`Invalid::split`] separates the two parts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {fix}")]
pub struct Invalid {
    /// What is wrong.
    pub problem: String,
    /// The fix.
    pub fix: String,
}

impl Invalid {
    /// Creates it from a problem and its fix.
    pub fn new(problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { problem: problem.into(), fix: fix.into() }
    }

    /// Splits a message at the first `; ` into problem and fix. `None` if the message is not from an [`Invalid`].
    pub fn split(message: &str) -> Option<(&str, &str)> {
        message.split_once("; ")
    }
}

/// The first 80 characters of a text, on one line, with control characters escaped.
fn shorten(text: &str) -> String {
    let first: String = text.chars().take(80).collect();
    let mut out = printed::escape_line(first.as_bytes());
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
        let issue = Issue::error("a", "x\u{1b}[31m\n".repeat(40), "bad", "fix it");
        assert!(!issue.to_string().contains(['\n', '\u{1b}']));
        assert!(issue.found.ends_with('…'));
    }

    #[test]
    fn keys_are_printed_without_control_characters() {
        let issue = Issue::error("users.a\u{1b}[2J\nb", "", "unknown\n", "fix it");
        assert_eq!(issue.to_string(), "error: users.a\\u{1b}[2J\\u{a}b: unknown\\u{a}; fix it");
    }

    #[test]
    fn an_issue_prints_severity_path_value_problem_and_fix() {
        let issue = Issue::error("users.dan.memoryLimit", "\"2X\"", "not a size", "write \"2G\"");
        assert_eq!(issue.to_string(), "error: users.dan.memoryLimit: found \"2X\": not a size; write \"2G\"");
    }
}
