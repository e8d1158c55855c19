use std::collections::BTreeSet;
use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn dan() -> Name {
    "dan".parse().expect("a name")
}

/// An event of each kind.
pub(crate) fn examples() -> Vec<Kind> {
    let (failure, source) = (Line::new("can't pull image x: not found; check its name"), Line::new("192.0.2.7"));
    vec![
        Kind::Started,
        Kind::Frozen,
        Kind::Thawed,
        Kind::Stopped,
        Kind::Restarted,
        Kind::Failed { failure: failure.clone() },
        Kind::Kept { seconds: 7200 },
        Kind::LeaseTaken { reason: Line::new("make world"), seconds: 3600 },
        Kind::ClaimRefused { failure: failure.clone() },
        Kind::Announced { step: Announced::Restart, seconds: 600 },
        Kind::UpdatePending,
        Kind::UpdateApplied,
        Kind::SignedIn { source: source.clone() },
        Kind::SignInRefused { source },
        Kind::SignedOut,
        Kind::SessionEnded,
        Kind::ManifestApplied { users: 3 },
        Kind::ManifestRefused { failure },
        Kind::CsmStarted { version: Line::new("0.1.0") },
    ]
}

fn word(kind: &Kind) -> String {
    serde_json::to_value(kind).expect("serializes")["kind"].as_str().expect("a kind").to_owned()
}

/// The variants of [`Kind`], from its schema.
fn variants() -> Vec<Value> {
    let schema = schemars::schema_for!(Kind).to_value();
    schema["oneOf"].as_array().expect("variants").clone()
}

/// The table of kinds in `docs/events.md`.
pub(crate) fn reference() -> String {
    let examples = examples();
    variants().iter().fold(String::new(), |mut text, variant| {
        let name = variant["properties"]["kind"]["const"].as_str().expect("a kind");
        let about = variant["description"].as_str().expect("a description").replace('\n', " ");
        let kind = examples.iter().find(|kind| word(kind) == name).expect("an example");
        let _ = write!(text, "### `{name}`\n\n{about}\n\n`MESSAGE_ID={}`\n\n", kind.message_id());
        for (field, schema) in
            variant["properties"].as_object().expect("fields").iter().filter(|(field, _)| *field != "kind")
        {
            let about = schema["description"].as_str().expect("a description").replace('\n', " ");
            let _ = writeln!(text, "- `{field}` ({}): {about}", schema["type"].as_str().unwrap_or("string"));
        }
        if variant["properties"].as_object().is_some_and(|fields| fields.len() > 1) {
            text.push('\n');
        }
        text
    })
}

#[test]
fn every_kind_has_an_example_and_an_id_of_its_own() {
    let words: BTreeSet<String> = examples().iter().map(word).collect();
    let declared: BTreeSet<String> = variants()
        .iter()
        .map(|variant| variant["properties"]["kind"]["const"].as_str().expect("a kind").to_owned())
        .collect();
    assert_eq!(words, declared);
    let ids: BTreeSet<&str> = examples().iter().map(Kind::message_id).collect();
    assert_eq!(ids.len(), declared.len(), "two kinds have the same MESSAGE_ID");
    for id in ids {
        assert!(id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{id}");
    }
}

#[test]
fn an_event_is_flat_json_and_can_be_read_back() {
    let fact = Fact::of_workspace("dan".parse().expect("an id"), Kind::Failed { failure: Line::new("no such image") });
    let event = Event { id: 7, at: 100, fact: fact.by(Some(Actor::User(dan()))).because("starting failed") };
    let json = json!({
        "id": 7, "at": 100, "kind": "failed", "failure": "no such image", "workspace": "dan", "user": null,
        "actor": "dan", "cause": "starting failed",
    });
    assert_eq!(serde_json::to_value(&event).expect("serializes"), json);
    assert_eq!(serde_json::from_value::<Event>(json).expect("parses"), event);
    for kind in examples() {
        let event = Event { id: 1, at: 2, fact: Fact::new(kind).by(Some(Actor::CommandLine)) };
        let text = serde_json::to_string(&event).expect("serializes");
        assert_eq!(serde_json::from_str::<Event>(&text).expect("parses"), event);
    }
}

#[test]
fn an_event_reads_as_a_sentence() {
    let of_dan = |kind| Fact::of_workspace("dan".parse().expect("an id"), kind);
    assert_eq!(of_dan(Kind::Stopped).because("stopped by grace").to_string(), "dan: stopped by grace");
    assert_eq!(of_dan(Kind::Frozen).because("idle for 30 min").to_string(), "dan: frozen: idle for 30 min");
    let exited = Kind::Failed { failure: Line::new("exited with code 7") };
    assert_eq!(of_dan(exited).because("exited with code 7").to_string(), "dan: failed: exited with code 7");
    let kept = of_dan(Kind::Kept { seconds: 7200 }).by(Some(Actor::CommandLine));
    assert_eq!(kept.to_string(), "dan: kept for 2 h 0 min by the command line");
    let refused = Kind::SignInRefused { source: Line::new("192.0.2.7") };
    assert_eq!(Fact::of_user(None, refused.clone()).to_string(), "sign-in refused from 192.0.2.7");
    assert_eq!(Fact::of_user(Some(dan()), refused).to_string(), "dan: sign-in refused from 192.0.2.7");
}

#[test]
fn a_filter_admits_what_the_owner_may_see() {
    let event = |fact| Event { id: 1, at: 100, fact };
    let own = Filter { owner: Some(dan()), ..Filter::default() };
    assert!(own.admits(&event(Fact::of_workspace("api--dan".parse().expect("an id"), Kind::Started))));
    assert!(own.admits(&event(Fact::of_user(Some(dan()), Kind::SignedOut))));
    assert!(!own.admits(&event(Fact::of_workspace("eve".parse().expect("an id"), Kind::Started))));
    assert!(!own.admits(&event(Fact::of_user(None, Kind::SignedOut))));
    assert!(!own.admits(&event(Fact::new(Kind::ManifestApplied { users: 1 }))));
    assert!(!Filter { since: 101, ..Filter::default() }.admits(&event(Fact::new(Kind::SignedOut))));
}

proptest! {
    #[test]
    fn a_text_is_one_bounded_line_without_control_characters(text in "(\\PC|[\\x00-\\x1f\u{202e}\n\r<>\"]){0,900}") {
        let line = Line::new(&text);
        prop_assert!(line.as_str().len() <= printed::MAX_LINE + "…".len());
        prop_assert!(!line.as_str().chars().any(|c| printed::is_escaped(c) || c == '\n'));
        let json = serde_json::to_string(&line).expect("serializes");
        prop_assert_eq!(serde_json::from_str::<Line>(&json).expect("parses"), line);
    }
}
