//! From text to [`ManifestFile`], with every finding at once.
//!
//! serde stops at its first error. So each error's value is noted and taken out of the document, and the rest is read again,
//! until it reads: the types stay the one place that knows what is allowed.

use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use super::file::ManifestFile;
use crate::model::issue::{Invalid, Issue};

/// The version of the format that this program reads.
pub const VERSION: u64 = 1;

/// More findings than this help nobody.
const MOST_ISSUES: usize = 200;

const SEE: &str = "see docs/manifest.md, or the output of \"csm schema\"";

/// Reads the text of a manifest. `None` when it is no manifest of this version at all.
pub fn read(text: &str) -> (Option<ManifestFile>, Vec<Issue>) {
    if text.trim().is_empty() {
        let issue = Issue::error("", "", "the manifest is empty", "write at least version, domain and users");
        return (None, vec![issue]);
    }
    let mut issues = Vec::new();
    let mut document = match parse_json(text, &mut issues) {
        Ok(document) => document,
        Err(issue) => return (None, vec![issue]),
    };
    if let Err(issue) = check_version(&document) {
        return (None, vec![issue]);
    }
    while issues.len() < MOST_ISSUES {
        let error = match serde_path_to_error::deserialize::<_, ManifestFile>(&document) {
            Ok(file) => return (Some(file), issues),
            Err(error) => error,
        };
        let keys = keys_of(&error);
        let Some(bad) = take_out(&mut document, &keys) else {
            let issue = Issue::error(error.path().to_string(), "", error.inner().to_string(), SEE);
            return (None, [issues, vec![issue]].concat());
        };
        issues.push(explain(&keys, &bad, &error.inner().to_string()));
    }
    (None, issues)
}

fn check_version(document: &Value) -> Result<(), Issue> {
    let Value::Object(top) = document else {
        return Err(Issue::error("", document, "a manifest is a JSON object", SEE));
    };
    match top.get("version") {
        Some(version) if version.as_u64() == Some(VERSION) => Ok(()),
        Some(version) => Err(Issue::error(
            "version",
            version,
            format!("this csm reads version {VERSION}"),
            format!("write \"version\": {VERSION}, or use the csm that the manifest was written for"),
        )),
        None => Err(Issue::error("version", "", "it is missing", format!("write \"version\": {VERSION}"))),
    }
}

/// Where the error is. serde names an unknown field only in its message, and a bad key of a map not at all.
fn keys_of(error: &serde_path_to_error::Error<serde_json::Error>) -> Vec<String> {
    error
        .path()
        .iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// Removes what the keys lead to, and returns it. An element of a list leaves its place to `null`'s neighbours.
fn take_out(document: &mut Value, keys: &[String]) -> Option<Value> {
    let (last, above) = keys.split_last()?;
    let parent = above.iter().try_fold(document, |value, key| match value {
        Value::Object(map) => map.get_mut(key),
        Value::Array(list) => list.get_mut(key.parse::<usize>().ok()?),
        _ => None,
    })?;
    match parent {
        Value::Object(map) => map.shift_remove(last),
        Value::Array(list) => {
            let at = last.parse::<usize>().ok().filter(|at| *at < list.len())?;
            Some(list.remove(at))
        }
        _ => None,
    }
}

fn explain(keys: &[String], bad: &Value, message: &str) -> Issue {
    let path = keys.join(".");
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let (field, expected) = rest.split_once('`').unwrap_or((rest, ""));
        let known: Vec<&str> = expected.split('`').skip(1).step_by(2).filter(|k| !k.starts_with('$')).collect();
        let remedy = match nearest(field, &known) {
            Some(name) => format!("did you mean \"{name}\"?"),
            None => format!("the fields here are {}", known.join(", ")),
        };
        return Issue::error(path, bad, "there is no such field", remedy);
    }
    if let Some(rest) = message.strip_prefix("missing field `") {
        let field = rest.trim_end_matches('`');
        return Issue::error(format!("{path}.{field}"), "", "it is missing", SEE);
    }
    match Invalid::split(message) {
        Some((problem, remedy)) => Issue::error(path, bad, problem, remedy),
        None => Issue::error(path, bad, message, SEE),
    }
}

/// The known word that differs least, when it is near enough to be a slip.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |a: &str, b: &str| {
        let b: Vec<char> = b.to_lowercase().chars().collect();
        let mut row: Vec<usize> = (0..=b.len()).collect();
        for (i, x) in a.to_lowercase().chars().enumerate() {
            let mut diagonal = std::mem::replace(&mut row[0], i + 1);
            for (j, y) in b.iter().enumerate() {
                let next = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
                diagonal = std::mem::replace(&mut row[j + 1], next);
            }
        }
        row[b.len()]
    };
    let best = known.iter().copied().min_by_key(|name| distance(word, name))?;
    (distance(word, best) <= 2.max(word.len() / 3)).then_some(best)
}

/// JSON, but a key given twice is an error where serde_json keeps the last one in silence.
fn parse_json(text: &str, issues: &mut Vec<Issue>) -> Result<Value, Issue> {
    let mut path = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(text);
    Unique { path: &mut path, issues }.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value)).map_err(
        |error| {
            let remedy = if error.is_eof() {
                "the file ends too early: write it whole, or to a temporary file that is renamed into place"
            } else {
                "mend the JSON there"
            };
            Issue::error("", "", format!("not JSON: {error}"), remedy)
        },
    )
}

struct Unique<'a> {
    path: &'a mut Vec<String>,
    issues: &'a mut Vec<Issue>,
}

impl<'de> DeserializeSeed<'de> for Unique<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            self.path.push(list.len().to_string());
            let item = items.next_element_seed(Unique { path: self.path, issues: self.issues })?;
            self.path.pop();
            match item {
                Some(item) => list.push(item),
                None => return Ok(list.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.path.push(key.clone());
            let value = entries.next_value_seed(Unique { path: self.path, issues: self.issues })?;
            if map.contains_key(&key) && self.issues.len() < MOST_ISSUES {
                let path = self.path.join(".");
                self.issues.push(Issue::error(path, &value, "it is there twice", "keep one of the two"));
            }
            self.path.pop();
            map.entry(key).or_insert(value);
        }
        Ok(map.into())
    }
}
