//! Parses the `Cookie` header, comparing names byte for byte.
//!
//! The usual crates decode names (`%5F%5FHost-x` becomes `__Host-x`), which defeats the prefix. They also ignore the whole header if
//! it contains an invalid byte, so that a page on a sibling host could sign users out.

/// Holds a session's id and secret, on the dashboard's host.
pub const SESSION: &str = "__Host-csm-session";
/// Allows a session to use one workspace, on that workspace's host.
pub const WORKSPACE: &str = "__Host-csm-workspace";
/// Binds a handshake to the browser that started it, on the workspace's host.
pub const NONCE: &str = "__Host-csm-nonce";
/// Proves that this browser has signed in before, on the dashboard's host.
pub const DEVICE: &str = "__Host-csm-device";

/// All cookies that csm sets. nginx removes them from requests to workspaces.
pub const ALL: [&str; 4] = [SESSION, WORKSPACE, NONCE, DEVICE];

/// The values of all cookies with this name.
fn values<'a>(header: &'a [u8], name: &str) -> impl Iterator<Item = &'a [u8]> {
    header.split(|b| *b == b';').filter_map(move |pair| {
        let pair = pair.trim_ascii();
        pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
    })
}

/// Returns the value of a cookie; `None` if the name occurs more than once, because a page may have set one of them.
pub fn find<'a>(header: &'a [u8], name: &str) -> Option<&'a str> {
    let mut values = values(header, name);
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    std::str::from_utf8(value).ok()
}

/// Returns the names of csm's cookies that occur more than once.
pub fn repeated(header: &[u8]) -> impl Iterator<Item = &'static str> {
    ALL.into_iter().filter(|name| values(header, name).nth(1).is_some())
}

/// Formats the value of a `Set-Cookie` header that deletes the cookie's partitioned twin. A page on the same host can set one: browsers
/// store a cookie with the attribute `Partitioned` beside one without it, and send both. Browsers that don't know the attribute delete the
/// cookie itself, so this header must come before the one that sets it.
pub fn delete_partitioned(name: &str) -> String {
    format!("{name}=; Path=/; Secure; HttpOnly; SameSite=None; Partitioned; Max-Age=0")
}

/// Formats the value of a `Set-Cookie` header. `max_age` is in seconds; 0 removes the cookie.
pub fn set(name: &str, value: &str, max_age: u64) -> String {
    format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={max_age}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_compared_byte_for_byte() {
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
    fn a_duplicate_cookie_is_ignored() {
        assert_eq!(find(b"__Host-csm-session=a; __Host-csm-session=b", SESSION), None);
        assert_eq!(find(b"__Host-csm-session=a; __Host-csm-session=a", SESSION), None);
    }

    #[test]
    fn repeated_cookies_are_those_that_occur_twice() {
        let check = |header: &[u8], names: &[&str]| assert_eq!(repeated(header).collect::<Vec<_>>(), names);
        check(b"", &[]);
        check(b"__Host-csm-session=a; __Host-csm-nonce=a; x=1; x=2", &[]);
        check(b"__Host-csm-nonce=a;x=1;\t__Host-csm-nonce=", &[NONCE]);
        check(b"__Host-csm-device=a;__Host-csm-session=a;__Host-csm-session=b;__Host-csm-device=a", &[SESSION, DEVICE]);
    }

    proptest! {
        #[test]
        fn a_cookie_is_found_after_any_other_bytes(before in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assume!(!before.windows(4).any(|w| w == b"csm-"));
            let header = [before.as_slice(), b"; __Host-csm-session=v"].concat();
            prop_assert_eq!(find(&header, SESSION), Some("v"));
        }
    }
}
