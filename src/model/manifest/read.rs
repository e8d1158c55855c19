//! Parses the manifest's text to a [`ManifestFile`], and reports all problems together.
//!
//! serde stops at the first error. So each invalid value is reported and removed from the document, and the rest is deserialized
//! again, until no error is left. This way only the types define what is valid.

use std::collections::HashMap;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use super::file::ManifestFile;
use crate::model::issue::{Invalid, Issue};

/// The version of the file format that this csm reads.
pub const VERSION: u64 = 1;

/// Reading stops after this many issues, because a longer list does not help the reader.
const MAX_ISSUES: usize = 200;

const SEE_REFERENCE: &str = "see docs/manifest.md or the output of \"csm schema\"";

/// Parses the text of a manifest. Returns no file if the text is not a JSON object of this version, or has too many errors.
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
    let mut removed = RemovedElements::default();
    while issues.len() < MAX_ISSUES {
        let error = match serde_path_to_error::deserialize::<_, ManifestFile>(&document) {
            Ok(file) => return (Some(file), issues),
            Err(error) => error,
        };
        let Some(invalid) = remove_at(&mut document, &path_keys(&error)) else {
            let issue = Issue::error(error.path().to_string(), "", error.inner().to_string(), SEE_REFERENCE);
            return (None, [issues, vec![issue]].concat());
        };
        let keys = removed.original_keys(&error);
        issues.push(to_issue(&keys, &invalid, &error.inner().to_string()));
    }
    (None, issues)
}

fn check_version(document: &Value) -> Result<(), Issue> {
    let Value::Object(top) = document else {
        return Err(Issue::error("", document, "a manifest must be a JSON object", SEE_REFERENCE));
    };
    match top.get("version") {
        Some(version) if version.as_u64() == Some(VERSION) => Ok(()),
        Some(version) => Err(Issue::error(
            "version",
            version,
            format!("this csm reads version {VERSION}"),
            format!("write \"version\": {VERSION}, or use a csm that reads this version"),
        )),
        None => Err(Issue::error("version", "", "missing", format!("write \"version\": {VERSION}"))),
    }
}

/// The keys that lead to the error. serde's own message names an unknown field, but not an invalid key of a map.
fn path_keys(error: &serde_path_to_error::Error<serde_json::Error>) -> Vec<String> {
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

/// How many elements have been removed from each list, by the list's keys in the manifest's text.
#[derive(Default)]
struct RemovedElements(HashMap<Vec<String>, usize>);

impl RemovedElements {
    /// The keys in the manifest's text that lead to the error. If the error is a list's element, counts that as removed.
    ///
    /// serde reads a list in order and stops at the first error, so all elements that were removed before were in front of this one.
    fn original_keys(&mut self, error: &serde_path_to_error::Error<serde_json::Error>) -> Vec<String> {
        let mut keys = Vec::new();
        for segment in error.path() {
            match segment {
                Segment::Seq { index } => {
                    let index = index + self.0.get(&keys).copied().unwrap_or(0);
                    keys.push(index.to_string());
                }
                Segment::Map { key } => keys.push(key.clone()),
                Segment::Enum { .. } | Segment::Unknown => {}
            }
        }
        if let (Some(Segment::Seq { .. }), Some((_, list))) = (error.path().iter().next_back(), keys.split_last()) {
            *self.0.entry(list.to_vec()).or_default() += 1;
        }
        keys
    }
}

/// Removes the value at these keys from the document, and returns it. The later elements of a list move up.
fn remove_at(document: &mut Value, keys: &[String]) -> Option<Value> {
    let (last, parents) = keys.split_last()?;
    let parent = parents.iter().try_fold(document, |value, key| match value {
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

/// Makes an issue of serde's message about an invalid value.
fn to_issue(keys: &[String], invalid: &Value, message: &str) -> Issue {
    let path = keys.join(".");
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let (field, expected) = rest.split_once('`').unwrap_or((rest, ""));
        let known: Vec<&str> = expected.split('`').skip(1).step_by(2).filter(|k| !k.starts_with('$')).collect();
        let fix = match nearest(field, &known) {
            Some(name) => format!("rename it to \"{name}\", or remove it"),
            None => format!("remove it, or use one of these fields: {}", known.join(", ")),
        };
        return Issue::error(path, invalid, "unknown field", fix);
    }
    if let Some(rest) = message.strip_prefix("missing field `") {
        let field = rest.trim_end_matches('`');
        return Issue::error(format!("{path}.{field}"), "", "missing", SEE_REFERENCE);
    }
    match (Invalid::split(message), message.rsplit_once(", expected ")) {
        (Some((problem, fix)), _) => Issue::error(path, invalid, problem, fix),
        (None, Some((_, expected))) => {
            Issue::error(path, invalid, format!("not {}", in_json_words(expected)), SEE_REFERENCE)
        }
        (None, None) => Issue::error(path, invalid, message, SEE_REFERENCE),
    }
}

/// Translates serde's name of an expected Rust type.
fn in_json_words(expected: &str) -> &str {
    match expected {
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        structure if structure.starts_with("struct ") => "an object",
        other => other,
    }
}

/// The most similar of the known words, if it is similar enough for `word` to be a misspelling.
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

/// Parses JSON, and reports duplicate keys, of which serde_json silently keeps the last.
fn parse_json(text: &str, issues: &mut Vec<Issue>) -> Result<Value, Issue> {
    let mut path = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(text);
    UniqueKeys { path: &mut path, issues }
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|error| {
            if error.is_eof() {
                let fix = "write the whole file, or write a temporary file and rename it into place";
                Issue::error("", "", format!("the file is incomplete: {error}"), fix)
            } else {
                Issue::error("", "", format!("not JSON: {error}"), "fix the JSON syntax")
            }
        })
}

/// Deserializes any JSON value, and reports duplicate keys of its objects.
struct UniqueKeys<'a> {
    path: &'a mut Vec<String>,
    issues: &'a mut Vec<Issue>,
}

impl<'de> DeserializeSeed<'de> for UniqueKeys<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys<'_> {
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
            let item = items.next_element_seed(UniqueKeys { path: self.path, issues: self.issues })?;
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
            let value = entries.next_value_seed(UniqueKeys { path: self.path, issues: self.issues })?;
            if map.contains_key(&key) && self.issues.len() < MAX_ISSUES {
                let path = self.path.join(".");
                self.issues.push(Issue::error(path, &value, "duplicate key", "keep only one of the two"));
            }
            self.path.pop();
            map.entry(key).or_insert(value);
        }
        Ok(map.into())
    }
}
