//! Sizes and CPU counts as written in the manifest: `3G`, `2560M`, `1.5`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::issue::Invalid;

/// A number of bytes above 0, written with systemd's suffixes `K`, `M`, `G` and `T` (powers of 1024).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(u64);

const UNITS: [(char, u64); 4] = [('T', 1 << 40), ('G', 1 << 30), ('M', 1 << 20), ('K', 1 << 10)];

impl Bytes {
    /// Creates it from a number of mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Bytes {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || Invalid::new("not a size", "write it as \"3G\", \"2560M\" or \"512K\"");
        let (digits, unit) = match text.char_indices().last() {
            Some((at, last)) if !last.is_ascii_digit() => {
                let unit = UNITS.iter().find(|(suffix, _)| *suffix == last).ok_or_else(invalid)?.1;
                (&text[..at], unit)
            }
            _ => (text, 1),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(invalid)?;
        if bytes == 0 {
            return Err(Invalid::new("no process can run with a limit of 0", "remove the field to use the default"));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, unit)| self.0.is_multiple_of(*unit)) {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A number of CPUs above 0, kept in thousandths and written as `1.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpus(u32);

impl Cpus {
    /// Creates it from thousandths of a CPU.
    pub const fn milli(n: u32) -> Self {
        Self(n)
    }

    /// The number of thousandths of a CPU.
    pub const fn millis(self) -> u32 {
        self.0
    }

    /// The quota for the cgroup's `cpu.max`: microseconds of CPU time in each 100 ms.
    pub const fn quota_micros(self) -> u64 {
        self.0 as u64 * 100
    }
}

impl FromStr for Cpus {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || Invalid::new("not a number of CPUs", "write it as \"1.5\" or \"2\"");
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > 3 {
            return Err(invalid());
        }
        let millis = format!("{part:0<3}").parse::<u32>().map_err(|_| invalid())?;
        let whole = whole.parse::<u32>().map_err(|_| invalid())?;
        match whole.checked_mul(1000).and_then(|n| n.checked_add(millis)) {
            Some(0) => Err(Invalid::new("no process can run with a limit of 0", "remove the field to use the default")),
            // systemd and the kernel refuse a quota below 1 ms in each 100 ms.
            Some(n) if n < 10 => Err(Invalid::new("too little CPU time to run code-server", "write at least \"0.01\"")),
            Some(n) if n <= 8_192_000 => Ok(Self(n)),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A JSON string or number, so that `1.5` and `"1.5"` mean the same.
#[derive(Deserialize)]
#[serde(untagged, expecting = "not a number or a string; write it as \"3G\" or \"1.5\"")]
enum NumberOrString {
    String(String),
    Number(serde_json::Number),
}

impl From<NumberOrString> for String {
    fn from(given: NumberOrString) -> Self {
        match given {
            NumberOrString::String(text) => text,
            NumberOrString::Number(number) => number.to_string(),
        }
    }
}

/// Implements serde and the JSON Schema for a type that is parsed from text, which JSON holds as `$json`: of these types, with this pattern.
macro_rules! parsed {
    ($type:ident, $json:ty, $types:tt, $pattern:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::from(<$json>::deserialize(from)?).parse().map_err(serde::de::Error::custom)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": $types, "pattern": $pattern })
            }
        }
    };
}

pub(super) use parsed;

parsed!(Bytes, NumberOrString, ["string", "number"], "^[0-9]+[KMGT]?$");
parsed!(Cpus, NumberOrString, ["string", "number"], r"^[0-9]+(\.[0-9]{1,3})?$");

/// Formats a number of bytes for display: `1.4 GiB`.
pub fn human_bytes(bytes: u64) -> String {
    const NAMES: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = bytes;
    let mut rest = 0;
    let mut unit = 0;
    while scaled >= 1024 && unit + 1 < NAMES.len() {
        rest = scaled % 1024;
        scaled /= 1024;
        unit += 1;
    }
    let tenth = rest * 10 / 1024;
    if unit > 1 && scaled < 100 && tenth > 0 {
        format!("{scaled}.{tenth} {}", NAMES[unit])
    } else {
        format!("{scaled} {}", NAMES[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_parse_and_print() {
        let check = |text: &str, bytes: u64| assert_eq!(text.parse::<Bytes>().unwrap().get(), bytes);
        check("3G", 3 << 30);
        check("2560M", 2560 << 20);
        check("1", 1);
        assert_eq!(Bytes::mib(2560).to_string(), "2560M");
        assert_eq!(Bytes::mib(3072).to_string(), "3G");
        for bad in ["", "0", "0G", "G", "3g", "3GB", "3 G", "-1G", "1.5G", "99999999999T", "3é"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cpus_parse_and_print() {
        let check = |text: &str, millis: u32| assert_eq!(text.parse::<Cpus>().unwrap().millis(), millis);
        check("1.5", 1500);
        check("2", 2000);
        check("0.125", 125);
        assert_eq!(Cpus::milli(1500).to_string(), "1.5");
        assert_eq!(Cpus::milli(2000).to_string(), "2");
        for bad in ["", "0", "0.0", "-1", ".5", "1.", "1.2345", "1e3", "150%", "0.001", "9999999999"] {
            assert!(bad.parse::<Cpus>().is_err(), "{bad}");
        }
    }

    #[test]
    fn json_numbers_and_strings_mean_the_same() {
        assert_eq!(serde_json::from_str::<Cpus>("1.5").unwrap(), serde_json::from_str("\"1.5\"").unwrap());
        assert_eq!(serde_json::from_str::<Bytes>("1024").unwrap().to_string(), "1K");
        assert!(serde_json::from_str::<Bytes>("-5").is_err());
        assert!(serde_json::from_str::<Bytes>("[]").is_err());
    }

    #[test]
    fn sizes_are_rounded_for_display() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(1536 << 20), "1.5 GiB");
        assert_eq!(human_bytes(131 << 20), "131 MiB");
    }

    proptest! {
        #[test]
        fn a_printed_size_parses_to_the_same_size(n in 1u64..u64::MAX) {
            let bytes = Bytes(n);
            prop_assert_eq!(bytes.to_string().parse::<Bytes>().unwrap(), bytes);
        }

        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = (text.parse::<Bytes>(), text.parse::<Cpus>());
        }
    }
}
