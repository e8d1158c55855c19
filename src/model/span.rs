//! Spans of time as written in the manifest and on the command line: `30m`, `8h`, `1h 30min`; and spans that can be `off`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::issue::Invalid;
use super::size::parsed;

/// The longest span: a year. It keeps sums of spans far from overflow.
const MAX_DAYS: u64 = 366;

/// A span of whole seconds, from 1 second to 366 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

impl Span {
    /// Creates it from a number of minutes.
    pub const fn minutes(n: u64) -> Self {
        Self(Duration::from_secs(n * 60))
    }

    /// The length.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let span = humantime::parse_duration(text)
            .map_err(|_| Invalid::new("not a span of time", "write it as \"30m\", \"8h\" or \"1h 30m\""))?;
        if span.is_zero() || span.subsec_nanos() != 0 {
            return Err(Invalid::new("not a number of whole seconds above 0", "write at least \"1s\""));
        }
        if span.as_secs() > MAX_DAYS * 86_400 {
            return Err(Invalid::new("longer than a year", format!("write at most \"{MAX_DAYS}d\"")));
        }
        Ok(Self(span))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_secs();
        let mut separator = "";
        for (unit, seconds) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
            if rest >= seconds {
                write!(f, "{separator}{}{unit}", rest / seconds)?;
                (rest, separator) = (rest % seconds, " ");
            }
        }
        Ok(())
    }
}

/// A span that can be switched off, which is written as `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// It never elapses.
    Off,
    /// It elapses after this span.
    After(Span),
}

impl Delay {
    /// The length; `None` if it is off.
    pub const fn get(self) -> Option<Duration> {
        match self {
            Self::Off => None,
            Self::After(span) => Some(span.get()),
        }
    }
}

impl FromStr for Delay {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse()
            .map(Self::After)
            .map_err(|invalid: Invalid| Invalid::new(invalid.problem, format!("{}, or \"off\"", invalid.fix)))
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::After(span) => span.fmt(f),
        }
    }
}

parsed!(Span, String, "string", "^([0-9.]+ ?[a-z]+ ?)+$");
parsed!(Delay, String, "string", "^(off|([0-9.]+ ?[a-z]+ ?)+)$");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_parse_and_print() {
        let check = |text: &str, seconds: u64, printed: &str| {
            let span: Span = text.parse().expect(text);
            assert_eq!((span.get().as_secs(), span.to_string().as_str()), (seconds, printed));
        };
        check("30m", 1800, "30m");
        check("30min", 1800, "30m");
        check("1h 30m", 5400, "1h 30m");
        check("90s", 90, "1m 30s");
        check("7d", 604_800, "7d");
        for bad in ["", "0", "0s", "30", "m", "-1h", "500ms", "400d", "99999999999999999999h", "off", "1h;"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_delay_can_be_off() {
        assert_eq!("off".parse(), Ok(Delay::Off));
        assert_eq!("8h".parse::<Delay>().unwrap().get(), Some(Duration::from_secs(28_800)));
        let invalid = "never".parse::<Delay>().unwrap_err();
        assert!(invalid.fix.ends_with("or \"off\""), "{invalid:?}");
    }

    proptest! {
        #[test]
        fn a_printed_span_parses_to_the_same_span(seconds in 1..=MAX_DAYS * 86_400) {
            let span = Span(Duration::from_secs(seconds));
            prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }

        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = (text.parse::<Span>(), text.parse::<Delay>());
        }
    }
}
