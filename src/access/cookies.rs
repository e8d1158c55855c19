//! The `Cookie` header, read byte for byte.
//!
//! The usual crates decode names (`%5F%5FHost-x` becomes `__Host-x`), which defeats the prefix, and drop the whole header for one
//! bad byte, which lets a sibling host sign people out.

/// The session on the dashboard's host.
pub const SESSION: &str = "__Host-csm-session";
/// The right to one workspace, on that workspace's host.
pub const WORKSPACE: &str = "__Host-csm-workspace";
/// Ties a handshake to the browser that began it, on the workspace's host.
pub const NONCE: &str = "__Host-csm-nonce";
/// Remembers on the dashboard's host that this browser signed in before.
pub const DEVICE: &str = "__Host-csm-device";

/// All that csm sets; nginx takes them out of what it sends to a workspace.
pub const ALL: [&str; 4] = [SESSION, WORKSPACE, NONCE, DEVICE];

/// The value of a cookie. A name that is there twice counts as absent: one of the two may be a sibling's.
pub fn find<'a>(header: &'a [u8], name: &str) -> Option<&'a str> {
    let mut values = header.split(|b| *b == b';').filter_map(|pair| {
        let pair = pair.trim_ascii();
        pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
    });
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    std::str::from_utf8(value).ok()
}

/// A `Set-Cookie` header of ours. `max_age` in seconds; 0 removes it.
pub fn set(name: &str, value: &str, max_age: u64) -> String {
    format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={max_age}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_exact() {
        let check = |header: &[u8], value: Option<&str>| assert_eq!(find(header, SESSION), value);
        check(b"__Host-csm-session=abc", Some("abc"));
        check(b"a=b; __Host-csm-session=abc;c", Some("abc"));
        check(b"a=\xff\xfe; __Host-csm-session=abc", Some("abc"));
        check(b"__Host-csm-session=a=b", Some("a=b"));
        check(b"%5F%5FHost-csm-session=abc", None);
        check(b"__host-csm-session=abc", None);
        check(b"x__Host-csm-session=abc", None);
        check(b"__Host-csm-session2=abc", None);
        check(b"__Host-csm-session =abc", None);
        check(b"a=\"; __Host-csm-session=abc\"", Some("abc\""));
        check(b"", None);
    }

    #[test]
    fn a_cookie_that_is_there_twice_counts_for_nothing() {
        assert_eq!(find(b"__Host-csm-session=a; __Host-csm-session=b", SESSION), None);
        assert_eq!(find(b"__Host-csm-session=a; __Host-csm-session=a", SESSION), None);
    }

    proptest! {
        #[test]
        fn ours_is_found_among_anything_else(before in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assume!(!before.windows(4).any(|w| w == b"csm-"));
            let header = [before.as_slice(), b"; __Host-csm-session=v"].concat();
            prop_assert_eq!(find(&header, SESSION), Some("v"));
        }
    }
}
