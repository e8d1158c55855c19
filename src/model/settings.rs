//! Merges declared VS Code settings into a user's own, without changing or removing any of theirs.

use std::collections::BTreeSet;

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstRootNode};
use serde_json::{Map, Value};

/// The settings that csm itself adds once. Terminals run in tmux, so that their programs keep running when the tab closes. VS Code's
/// own AI assistant and its panel are off, because code-server can't sign in to it.
pub fn defaults() -> Map<String, Value> {
    let profile = serde_json::json!({ "path": "/opt/code-server-multi/terminal", "icon": "terminal-tmux" });
    Map::from_iter([
        ("terminal.integrated.profiles.linux".to_owned(), serde_json::json!({ "tmux": profile })),
        ("terminal.integrated.defaultProfile.linux".to_owned(), Value::from("tmux")),
        // Otherwise VS Code replaces an unused terminal when an extension adds an environment variable.
        ("terminal.integrated.environmentChangesRelaunch".to_owned(), Value::from(false)),
        ("chat.disableAIFeatures".to_owned(), Value::from(true)),
        ("workbench.secondarySideBar.defaultVisibility".to_owned(), Value::from("hidden")),
        ("workbench.startupEditor".to_owned(), Value::from("none")),
    ])
}

/// Adds each setting that `text` does not contain and that `given` does not list, and lists all of them in `given`.
///
/// `text` is the user's `settings.json`; it may be empty or contain comments. Returns `None` if the file must stay unchanged: every
/// setting is already in it or in `given`, or the file does not parse and can't be changed safely.
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
    fn merging_keeps_comments_and_the_users_own_settings() {
        let own = "{\n  // mine\n  \"editor.fontSize\": 20,\n}\n";
        let mut given = BTreeSet::new();
        let merged =
            merge(own, &settings(r#"{"editor.fontSize":15,"a.b":{"c":[1,null]}}"#), &mut given).expect("changed");
        assert!(merged.contains("// mine") && merged.contains("\"editor.fontSize\": 20"), "{merged}");
        assert!(merged.contains("\"a.b\"") && !merged.contains("15"), "{merged}");
        assert_eq!(given.len(), 2);
    }

    #[test]
    fn a_setting_that_the_user_removed_is_not_added_again() {
        let mut given = BTreeSet::new();
        let declared = settings(r#"{"a":1}"#);
        assert!(merge("", &declared, &mut given).expect("changed").contains("\"a\": 1"));
        assert_eq!(merge("{}", &declared, &mut given), None, "the user removed it");
    }

    #[test]
    fn a_file_that_does_not_parse_stays_unchanged() {
        for text in ["{", "[1]", "nonsense {"] {
            assert_eq!(merge(text, &settings(r#"{"a":1}"#), &mut BTreeSet::new()), None, "{text}");
        }
    }
}
