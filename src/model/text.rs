//! Validated strings: domains, paths, image references, names of variables, ids of extensions.

use std::fmt;
use std::path::Path;

use super::issue::Invalid;

/// Defines a string type whose every value was accepted by the function `$parse`. serde and `FromStr` call that function.
macro_rules! checked_text {
    ($(#[$doc:meta])* $type:ident, $schema:expr, $parse:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $type(Box<str>);

        impl $type {
            /// The string.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::model::issue::Invalid;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let parse: fn(&str) -> Result<String, Self::Err> = $parse;
                parse(text).map(|text| Self(text.into()))
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                #[allow(clippy::redundant_closure_call)]
                ($schema)()
            }
        }
    };
}
pub(crate) use checked_text;

fn pattern(pattern: &str) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "pattern": pattern })
}

checked_text!(
    /// A DNS name in lower case, without a scheme, a port or a trailing dot: `code.example.org`.
    Domain,
    || pattern(r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"),
    parse_domain
);

checked_text!(
    /// An absolute path without `..`.
    AbsolutePath,
    || pattern("^/"),
    parse_absolute
);

checked_text!(
    /// The absolute path of a file that contains a secret. It can't be in the Nix store, which any account can read.
    SecretPath,
    || pattern("^/"),
    |text| {
        let path = parse_absolute(text)?;
        if path == "/nix/store" || path.starts_with("/nix/store/") {
            return Err(Invalid::new(
                "anyone on the host can read a secret in the Nix store",
                "use a file outside the Nix store, for example one that sops-nix writes under /run/secrets",
            ));
        }
        Ok(path)
    }
);

checked_text!(
    /// A path relative to the owner's home: `.config/gh/hosts.yml` or `~/.config/gh/hosts.yml`.
    HomePath,
    || pattern("^[^/]"),
    |text| {
        let bare = text.strip_prefix("~/").unwrap_or(text);
        let valid = !bare.is_empty()
            && !bare.starts_with('/')
            && !bare.chars().any(char::is_control)
            && bare.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if valid {
            Ok(bare.to_owned())
        } else {
            Err(Invalid::new(
                "not a path under the home directory",
                "write it as \".config/gh/hosts.yml\", without \"..\"",
            ))
        }
    }
);

checked_text!(
    /// A container image: `docker.io/codercom/code-server:4.139.1`.
    ImageRef,
    || pattern(r"^[a-z0-9][^\s]*$"),
    |text| {
        let valid = text.len() <= 400
            && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "./:_-@+".contains(c));
        if valid {
            Ok(text.to_owned())
        } else {
            Err(Invalid::new(
                "not an image reference",
                "write it as \"docker.io/codercom/code-server:latest\"",
            ))
        }
    }
);

checked_text!(
    /// The name of an environment variable.
    EnvName,
    || pattern("^[A-Za-z_][A-Za-z0-9_]*$"),
    |text| {
        let valid = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if valid {
            Ok(text.to_owned())
        } else {
            Err(Invalid::new(
                "not the name of an environment variable",
                "use letters, digits and \"_\", not starting with a digit",
            ))
        }
    }
);

checked_text!(
    /// A VS Code extension: `publisher.name`, `publisher.name@1.2.3`, or the absolute path of a `.vsix` in the image.
    ExtensionId,
    || pattern(r"^(/.*\.vsix|[A-Za-z0-9-]+\.[A-Za-z0-9._-]+(@[A-Za-z0-9.+-]+)?)$"),
    |text| {
        let word = |part: &str, more: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let id = || {
            let (publisher, rest) = text.split_once('.')?;
            let (name, version) = rest.split_once('@').unwrap_or((rest, "0"));
            (word(publisher, "-") && word(name, "._-") && word(version, ".+-")).then_some(())
        };
        let file = Path::new(text);
        let vsix = file.is_absolute() && file.extension().is_some_and(|e| e == "vsix");
        if (vsix && parse_absolute(text).is_ok()) || id().is_some() {
            Ok(text.to_owned())
        } else {
            Err(Invalid::new(
                "not an extension",
                "write it as \"publisher.name\", \"publisher.name@1.2.3\" or the absolute path of a .vsix file",
            ))
        }
    }
);

impl Domain {
    /// True for `localhost` and its subdomains, which browsers resolve to their own computer without DNS.
    pub fn is_localhost(&self) -> bool {
        self.as_str() == "localhost" || self.as_str().ends_with(".localhost")
    }
}

impl AbsolutePath {
    /// The path.
    pub fn path(&self) -> &Path {
        Path::new(self.as_str())
    }
}

impl SecretPath {
    /// The path.
    pub fn path(&self) -> &Path {
        Path::new(self.as_str())
    }
}

fn parse_domain(text: &str) -> Result<String, Invalid> {
    let fix = |text: &str| format!("write only the DNS name, for example \"{text}\"");
    if let Some((scheme, rest)) = text.split_once("://") {
        let host = rest.split(['/', ':']).next().unwrap_or_default().to_lowercase();
        return Err(Invalid::new(format!("a domain has no scheme (\"{scheme}://\")"), fix(&host)));
    }
    if text.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(Invalid::new("a domain must be in lower case", fix(&text.to_lowercase())));
    }
    if let Some((host, _)) = text.split_once(':') {
        return Err(Invalid::new(
            "a domain has no port",
            format!("{}, and set the port in frontDoor.listen", fix(host)),
        ));
    }
    if let Some(host) = text.strip_suffix('.') {
        return Err(Invalid::new("a domain has no trailing dot", fix(host)));
    }
    let part = |part: &str| {
        (1..=63).contains(&part.len())
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    let numeric = text.rsplit('.').next().is_some_and(|last| last.chars().all(|c| c.is_ascii_digit()));
    // A workspace's label and its dot add up to 49 characters; a DNS name has at most 253.
    if text.len() > 200 || !text.split('.').all(part) || numeric {
        return Err(Invalid::new("not a domain", fix("code.example.org")));
    }
    Ok(text.to_owned())
}

fn parse_absolute(text: &str) -> Result<String, Invalid> {
    let valid = text.starts_with('/')
        && text.len() < 4096
        && !text.chars().any(char::is_control)
        && text.split('/').all(|part| part != "..");
    if !valid {
        return Err(Invalid::new("not an absolute path", "start the path with \"/\", and write it without \"..\""));
    }
    let joined = text.split('/').filter(|part| !matches!(*part, "" | ".")).fold(String::new(), |mut path, part| {
        path.push('/');
        path.push_str(part);
        path
    });
    Ok(if joined.is_empty() { "/".to_owned() } else { joined })
}

checked_text!(
    /// The name of a program as the kernel shows it, without its directory: `blender`.
    ProgramName,
    || pattern(r"^[^/\s]{1,40}$"),
    |text| {
        let valid = (1..=40).contains(&text.len()) && !text.chars().any(|c| c == '/' || c.is_whitespace() || c.is_control());
        if valid {
            Ok(text.to_owned())
        } else {
            Err(Invalid::new("not the name of a program", "write it as \"blender\", without directory and arguments"))
        }
    }
);

/// Joins items as in a sentence: `a, b and c`.
pub fn join_words<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    match items.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuses<T: std::str::FromStr<Err = Invalid>>(texts: &[&str]) {
        for text in texts {
            assert!(text.parse::<T>().is_err(), "accepted {text:?}");
        }
    }

    fn accepts<T: std::str::FromStr<Err = Invalid>>(texts: &[&str]) {
        for text in texts {
            assert!(text.parse::<T>().is_ok(), "refused {text:?}");
        }
    }

    #[test]
    fn domains() {
        accepts::<Domain>(&["localhost", "code.localhost", "code.example.org", "a-b.c3"]);
        refuses::<Domain>(&[
            "",
            ".",
            "a..b",
            "-a.b",
            "a-.b",
            "a_b.c",
            "https://code.example.org",
            "Code.example.org",
            "code.example.org:443",
            "code.example.org.",
            "10.0.0.1",
            "ä.de",
            "a b",
            &"a.".repeat(120),
        ]);
        let fix = "https://Code.Example.org/x".parse::<Domain>().unwrap_err().fix;
        assert!(fix.contains("\"code.example.org\""), "{fix}");
    }

    #[test]
    fn paths() {
        assert_eq!("//srv/./x/".parse::<AbsolutePath>().unwrap().as_str(), "/srv/x");
        refuses::<AbsolutePath>(&["", "srv", "/srv/../etc", "/a\nb"]);
        refuses::<SecretPath>(&["/nix/store/abc-secret", "//nix/./store/x", "secret"]);
        accepts::<SecretPath>(&["/nix/storefront", "/run/secrets/x"]);
        assert_eq!("~/.netrc".parse::<HomePath>().unwrap().as_str(), ".netrc");
        refuses::<HomePath>(&["", "/etc/passwd", "../x", "a/../b", "a//b", "~/"]);
    }

    #[test]
    fn images_variables_and_extensions() {
        accepts::<ImageRef>(&["localhost/csm:abc", "docker.io/codercom/code-server@sha256:ab"]);
        refuses::<ImageRef>(&["", "-x", "a b", "--privileged", "a\nb", "a;b", "Upper/x"]);
        accepts::<EnvName>(&["A", "_x1"]);
        refuses::<EnvName>(&["", "1A", "A-B", "A=B"]);
        accepts::<ProgramName>(&["blender", "python3.12", "cc1plus"]);
        refuses::<ProgramName>(&["", "/bin/make", "make all", "a\n", &"x".repeat(41)]);
        accepts::<ExtensionId>(&["ms-python.python", "a.b@1.2.3", "/opt/x.vsix"]);
        refuses::<ExtensionId>(&["", "python", "a.b; rm", "--force", "/opt/x.zip", "a.b@"]);
    }

    #[test]
    fn items_are_joined_as_in_a_sentence() {
        assert_eq!(join_words(["a", "b", "c"]), "a, b and c");
        assert_eq!(join_words(["a"]), "a");
    }
}
