//! `csm schema`: the manifest's JSON Schema, and the reference generated from it, `docs/manifest.md`.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::{Map, Value};

use super::Failure;
use crate::model::manifest::file::ManifestFile;

pub(super) fn run(markdown: bool) -> Result<ExitCode, Failure> {
    print!("{}", if markdown { reference() } else { schema()? });
    Ok(ExitCode::SUCCESS)
}

fn value() -> Value {
    schemars::schema_for!(ManifestFile).to_value()
}

fn schema() -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(&value()).map_err(|error| Failure::new(error.to_string()))?;
    Ok(text + "\n")
}

/// The reference: a table of fields for each object.
fn reference() -> String {
    let schema = value();
    let mut text = String::from(
        "# The manifest\n\n<!-- Made by `csm schema --markdown`; a test compares. -->\n\n\
         JSON, version 1. `csm check FILE` prints all errors and warnings of a manifest; `csm schema` prints its JSON Schema. On NixOS the\n\
module writes it. Unknown fields are errors. Sizes are written as `3G`, `2560M`, `512K`; CPUs as `1.5`.\n\n",
    );
    describe_object(&mut text, &schema, "The file", &schema);
    for (title, name) in [
        ("`frontDoor`", "FrontDoorFile"),
        ("`events`", "EventsFile"),
        ("A user", "UserFile"),
        ("`autostop`", "AutostopFile"),
        ("`update`", "UpdateFile"),
        ("A secret file", "SecretFileEntry"),
    ] {
        describe_object(&mut text, &schema["$defs"][name], title, &schema);
    }
    text
}

fn describe_object(text: &mut String, object: &Value, title: &str, root: &Value) {
    let about = object["description"].as_str().unwrap_or_default().replace('\n', " ");
    let _ = write!(text, "## {title}\n\n{about}\n\n| field | type | meaning |\n| --- | --- | --- |\n");
    let required = object["required"].as_array();
    let none = Map::new();
    for (name, field) in object["properties"].as_object().unwrap_or(&none) {
        let must = required.is_some_and(|all| all.iter().any(|one| one == name));
        let about = field["description"].as_str().unwrap_or_default().replace('\n', " ");
        let example = field["examples"].get(0).map(|example| format!(" Example: `{example}`.")).unwrap_or_default();
        let must = if must { "**Required.** " } else { "" };
        let _ = writeln!(text, "| `{name}` | {} | {must}{about}{example} |", kind(field, root));
    }
    text.push('\n');
}

/// The type of a field, in one or two words.
fn kind(field: &Value, root: &Value) -> String {
    if let Some(name) = field["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return match name {
            "FrontDoorFile" | "EventsFile" | "UserFile" | "AutostopFile" | "UpdateFile" | "SecretFileEntry" => {
                "object".to_owned()
            }
            other => kind(&root["$defs"][other], root),
        };
    }
    if let Some(some) = field["anyOf"].as_array().and_then(|any| any.iter().find(|one| one["type"] != "null")) {
        return kind(some, root);
    }
    let types: Vec<&str> = match &field["type"] {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().filter_map(Value::as_str).filter(|one| *one != "null").collect(),
        _ => vec!["any"],
    };
    match types.as_slice() {
        ["array"] => format!("list of {}s", kind(&field["items"], root)),
        many => many.join(" or "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if the committed file differs from what the code generates. `UPDATE_DOCS=1` rewrites it instead.
    fn assert_committed(path: &str, text: &str) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, text).expect("written");
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "{} has drifted; run UPDATE_DOCS=1 cargo test", path.display());
    }

    #[test]
    fn the_schema_has_not_drifted() {
        assert_committed("docs/manifest.schema.json", &schema().expect("serializes"));
    }

    #[test]
    fn the_reference_has_not_drifted() {
        assert_committed("docs/manifest.md", &reference());
    }

    /// Fails if the part of a document that is generated from a source file differs from what the code generates.
    fn assert_endpoints(document: &str, source: &str, reference: &str) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        let (start, end) = (format!("<!-- endpoints: made from {source} -->\n\n"), "<!-- end of endpoints -->\n");
        let (before, rest) = committed.split_once(&start).expect("the mark before the endpoints");
        let (_, after) = rest.split_once(end).expect("the mark after the endpoints");
        assert_committed(document, &format!("{before}{start}{reference}{end}{after}"));
    }

    #[test]
    fn the_api_reference_has_not_drifted() {
        assert_endpoints("docs/api.md", "src/http/api.rs", &crate::http::api::reference());
    }

    #[test]
    fn the_control_sockets_reference_has_not_drifted() {
        assert_endpoints("docs/control-socket.md", "src/http/control.rs", &crate::http::control::reference());
    }

    #[test]
    fn the_reference_of_events_has_not_drifted() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.md");
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        let start = "<!-- kinds: made from src/model/event.rs -->\n\n";
        let (before, _) = committed.split_once(start).expect("the mark before the kinds");
        let kinds = crate::model::event::tests::reference();
        assert_committed("docs/events.md", &format!("{before}{start}{}\n", kinds.trim_end()));
    }
}
