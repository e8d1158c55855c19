//! Encodes random secrets, and signs tokens, which the daemon can verify without storing them.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::site::Site;

/// Encodes 32 random bytes as 43 characters of base64url.
pub fn encode(random: [u8; 32]) -> String {
    Base64UrlUnpadded::encode_string(&random)
}

/// Encodes any text in base64url.
pub fn encode_text(text: &str) -> String {
    Base64UrlUnpadded::encode_string(text.as_bytes())
}

/// Decodes the result of [`encode_text`].
pub fn decode_text(encoded: &str) -> Option<String> {
    String::from_utf8(Base64UrlUnpadded::decode_vec(encoded).ok()?).ok()
}

/// Compares in constant time, so that the time does not reveal how many of the first bytes are equal.
pub fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// The daemon's signing key. Its signatures are valid as long as the daemon keeps this key.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// Creates a key from its bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Signs a list whose first part is the purpose. Each part's length is signed too, so that different lists never have the same bytes.
    pub fn sign(&self, parts: &[&str]) -> String {
        // This can't fail: HMAC accepts keys of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return String::new() };
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        encode(mac.finalize().into_bytes().into())
    }

    /// Whether this key made the signature.
    pub fn verify(&self, parts: &[&str], signature: &str) -> bool {
        equal_in_constant_time(self.sign(parts).as_bytes(), signature.as_bytes())
    }

    /// The value of the cookie that allows a session to use one site.
    pub fn site_token(&self, session: &str, site: &Site) -> String {
        format!("{session}.{}", self.sign(&["site", session, &site.to_string()]))
    }

    /// The id of the session in a site's cookie; `None` if the cookie was not signed for this site.
    pub fn session_of_site_token<'a>(&self, token: &'a str, site: &Site) -> Option<&'a str> {
        let (session, signature) = token.split_once('.')?;
        self.verify(&["site", session, &site.to_string()], signature).then_some(session)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_valid_only_for_its_site() {
        let key = Key::new([7; 32]);
        let site = |label: &str| Site::Workspace(label.parse().expect("a label"));
        let token = key.site_token("s1", &site("dan"));
        assert_eq!(key.session_of_site_token(&token, &site("dan")), Some("s1"));
        for other in ["alice", "3000--dan", "api--dan"] {
            assert_eq!(key.session_of_site_token(&token, &site(other)), None, "{other}");
        }
        assert_eq!(Key::new([8; 32]).session_of_site_token(&token, &site("dan")), None);
        assert_eq!(key.session_of_site_token(&token.replace("s1", "s2"), &site("dan")), None);
        for bad in ["", ".", "s1", "s1."] {
            assert_eq!(key.session_of_site_token(bad, &site("dan")), None, "{bad:?}");
        }
    }

    #[test]
    fn signatures_depend_on_where_parts_are_split() {
        let key = Key::new([7; 32]);
        assert_ne!(key.sign(&["ab", "c"]), key.sign(&["a", "bc"]));
    }
}
