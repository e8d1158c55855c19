//! Declared VS Code settings, merged into a person's own without taking anything from them.

use std::collections::BTreeSet;

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstRootNode};
use serde_json::{Map, Value};

/// What csm itself sets once: terminals run in tmux, so that what runs there outlives the tab; and no panel greets people for an
/// assistant that code-server can't sign in to.
pub fn defaults() -> Map<String, Value> {
    let profile = serde_json::json!({ "path": "/opt/code-server-multi/terminal", "icon": "terminal-tmux" });
    Map::from_iter([
        ("terminal.integrated.profiles.linux".to_owned(), serde_json::json!({ "tmux": profile })),
        ("terminal.integrated.defaultProfile.linux".to_owned(), Value::from("tmux")),
        // A terminal that nobody has typed into is otherwise replaced when an extension adds a variable.
        ("terminal.integrated.environmentChangesRelaunch".to_owned(), Value::from(false)),
        ("chat.disableAIFeatures".to_owned(), Value::from(true)),
        ("workbench.secondarySideBar.defaultVisibility".to_owned(), Value::from("hidden")),
        ("workbench.startupEditor".to_owned(), Value::from("none")),
    ])
}

/// Adds each setting that is neither there nor was given before (`given`, which grows by what is added now).
///
/// `text` is the person's `settings.json`, with comments or empty. `None`: nothing to change, or nothing that can be
/// changed safely because it does not parse; their file stays as it is.
pub fn merge(text: &str, settings: &Map<String, Value>, given: &mut BTreeSet<String>) -> Option<String> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    let root = CstRootNode::parse(text, &ParseOptions::default()).ok()?;
    let object = root.object_value_or_create()?;
    let mut changed = false;
    for (name, value) in settings {
        if given.insert(name.clone()) && object.get(name).is_none() {
            object.append(name, input(value));
            changed = true;
        }
    }
    changed.then(|| root.to_string())
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(value) => CstInputValue::Number(value.to_string()),
        Value::String(value) => CstInputValue::String(value.clone()),
        Value::Array(values) => CstInputValue::Array(values.iter().map(input).collect()),
        Value::Object(map) => {
            CstInputValue::Object(map.iter().map(|(name, value)| (name.clone(), input(value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).expect("an object")
    }

    #[test]
    fn comments_and_own_choices_stay() {
        let own = "{\n  // mine\n  \"editor.fontSize\": 20,\n}\n";
        let mut given = BTreeSet::new();
        let merged =
            merge(own, &settings(r#"{"editor.fontSize":15,"a.b":{"c":[1,null]}}"#), &mut given).expect("changed");
        assert!(merged.contains("// mine") && merged.contains("\"editor.fontSize\": 20"), "{merged}");
        assert!(merged.contains("\"a.b\"") && !merged.contains("15"), "{merged}");
        assert_eq!(given.len(), 2);
    }

    #[test]
    fn what_was_given_once_is_never_given_again() {
        let mut given = BTreeSet::new();
        let declared = settings(r#"{"a":1}"#);
        assert!(merge("", &declared, &mut given).expect("changed").contains("\"a\": 1"));
        assert_eq!(merge("{}", &declared, &mut given), None, "the person took it out");
    }

    #[test]
    fn what_does_not_parse_is_left_alone() {
        for text in ["{", "[1]", "nonsense {"] {
            assert_eq!(merge(text, &settings(r#"{"a":1}"#), &mut BTreeSet::new()), None, "{text}");
        }
    }
}
