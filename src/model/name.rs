//! Names of users and projects.

use super::issue::Invalid;
use super::text::checked_text;

/// The maximum length of a name, in characters. Two names, a port and the separators fit a DNS label of 63.
pub const MAX_NAME_LENGTH: usize = 20;

/// Names that no user can have: well-known hostnames with another meaning, csm's own names, and the account `root`.
const RESERVED: [&str; 8] = ["admin", "csm", "localhost", "mail", "main", "root", "wpad", "www"];

checked_text!(
    /// A user's or a project's name: `[a-z][a-z0-9]*(-[a-z0-9]+)*`, at most 20 characters. It never contains `--`.
    Name,
    || schemars::json_schema!({
        "type": "string", "maxLength": MAX_NAME_LENGTH, "pattern": "^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
    }),
    |text| {
        let word = |part: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        if text.len() <= MAX_NAME_LENGTH
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.split('-').all(word)
        {
            Ok(text.to_owned())
        } else {
            Err(Invalid::new(
                "not a valid name",
                "use 1 to 20 lower-case letters, digits and single dashes, starting with a letter",
            ))
        }
    }
);

impl Name {
    /// True if no user can have this name.
    pub fn is_reserved(&self) -> bool {
        RESERVED.contains(&self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        for good in ["a", "dan", "a1", "a-b", "a-1-b", "abcdefghijklmnopqrst"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a--b", "1a", "A", "ä", "a_b", "a.b", "abcdefghijklmnopqrstu", "a\n"] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }
}
