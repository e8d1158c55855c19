//! A secret file in a workspace's home, as the manifest declares it.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::text::{HomePath, SecretPath};

/// A secret file in the workspace's home.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SecretFileEntry {
    /// The file on the host that is copied.
    #[schemars(example = "/run/secrets/dan-netrc")]
    pub source: SecretPath,
    /// The file's permissions in the workspace, in octal: `0400`, `0500`, `0600` or `0700`. Default: `0400`.
    #[serde(default)]
    #[schemars(with = "Option<String>", example = "0400")]
    pub mode: Mode,
}

/// Deserializes a workspace's secret files, and refuses two keys for the same path, such as `a` and `~/a`.
pub fn deserialize_all<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<HomePath, SecretFileEntry>, D::Error> {
    struct UniquePaths;

    impl<'de> Visitor<'de> for UniquePaths {
        type Value = BTreeMap<HomePath, SecretFileEntry>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut files = BTreeMap::new();
            while let Some((path, file)) = entries.next_entry::<HomePath, SecretFileEntry>()? {
                if files.contains_key(&path) {
                    let twice = format!("\"{path}\" is there twice, with and without \"~/\"; keep one of the two");
                    return Err(de::Error::custom(twice));
                }
                files.insert(path, file);
            }
            Ok(files)
        }
    }

    from.deserialize_map(UniquePaths)
}

/// Permissions of a secret file, owner bits only: `0400`, `0600`, `0500` or `0700`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(u32);

impl Mode {
    /// The permission bits.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl Default for Mode {
    fn default() -> Self {
        Self(0o400)
    }
}

impl Serialize for Mode {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:04o}", self.0))
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        match u32::from_str_radix(&text, 8) {
            Ok(bits @ (0o400 | 0o500 | 0o600 | 0o700)) => Ok(Self(bits)),
            _ => {
                Err(serde::de::Error::custom("not a mode for a secret; write \"0400\", \"0600\", \"0500\" or \"0700\""))
            }
        }
    }
}
