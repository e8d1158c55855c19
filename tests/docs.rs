//! What the documents say exists: manifests that are read, links that lead somewhere, verbs that the command line has, files of the
//! code map.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use code_server_multi::activity::{Keeper, Verdict};
use code_server_multi::daemon::view::View;
use code_server_multi::model::issue::Issue;
use code_server_multi::model::manifest::{Machine, Manifest};
use code_server_multi::model::workspace::Limits;
use code_server_multi::model::workspace::{Progress, State, Usage};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown file of the project, by its path below the project's root.
fn documents() -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root().to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).expect("readable") {
            let path = entry.expect("readable").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && !matches!(name.as_str(), "target" | "node_modules") {
                    waiting.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).expect("readable");
                found.insert(path.strip_prefix(root()).expect("below the root").to_owned(), text);
            }
        }
    }
    assert!(found.contains_key(Path::new("README.md")), "the documents were not found");
    found
}

/// A part of a document between fences.
struct Block {
    line: usize,
    language: String,
    text: String,
}

/// The fenced blocks, and the text without them (its lines stay where they are).
fn split(document: &str) -> (Vec<Block>, String) {
    let mut blocks = Vec::new();
    let mut prose = String::new();
    let mut open: Option<Block> = None;
    for (at, line) in document.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut open, fence) {
            (None, Some(language)) => {
                open = Some(Block { line: at + 1, language: language.trim().to_owned(), text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text.extend([line, "\n"]),
            (None, None) => prose += line,
        }
        prose.push('\n');
    }
    assert!(open.is_none(), "a fence is not closed");
    (blocks, prose)
}

/// What stands between two marks, with the line where it stands.
fn between<'a>(text: &'a str, start: &str, end: char) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let mut rest = line;
        while let Some((_, after)) = rest.split_once(start) {
            let Some((inside, next)) = after.split_once(end) else { break };
            found.push((at + 1, inside));
            rest = next;
        }
    }
    found
}

#[test]
fn every_manifest_in_the_documents_is_sound() {
    let machine = Machine { memory: 64 << 30, cpus: 16 };
    let mut seen = 0;
    for (path, document) in documents() {
        for block in split(&document).0.into_iter().filter(|block| block.language == "json") {
            let value: serde_json::Value = serde_json::from_str(&block.text)
                .unwrap_or_else(|error| panic!("{}:{}: not JSON: {error}", path.display(), block.line));
            if value.get("version").is_none() {
                continue;
            }
            seen += 1;
            let (manifest, issues) = Manifest::parse(&block.text, &machine);
            let errors: Vec<String> = issues.iter().filter(|issue| issue.is_error()).map(Issue::to_string).collect();
            assert!(manifest.is_some(), "{}:{}: {}", path.display(), block.line, errors.join("\n"));
        }
    }
    assert!(seen > 2, "the examples were not found");
}

#[test]
fn the_workspace_in_the_api_page_is_what_the_api_answers() {
    let view = View {
        id: "ada".parse().expect("an id"),
        state: State::Running { since: 1_795_255_200 },
        reason: "opened by ada".to_owned(),
        at: 1_795_255_203,
        failure: None,
        log: Vec::new(),
        limits: Limits {
            memory: "3G".parse().expect("a size"),
            memory_high: "2560M".parse().expect("a size"),
            cpu: "1.5".parse().expect("CPUs"),
            tasks: 4096,
        },
        usage: Some(Usage { memory: 493_879_296, cpu_millis: 61_250, tasks: 143 }),
        cpu: Some(120),
        disk: Some(73_400_320),
        activity: Some(Verdict {
            kept_by: vec![Keeper::Agent { name: "opencode".to_owned(), seconds: 840 }],
            kept_for: Some(85_560),
            ..Verdict::default()
        }),
        settled: true,
        may_run: true,
        update_pending: false,
        url: "https://ada.code.example.org/".to_owned(),
    };
    let pulling = State::Starting(Progress::Pulling { percent: None });
    let documents = documents();
    let page = &documents[Path::new("docs/api.md")];
    let example = split(page).0.into_iter().find(|block| block.text.contains("\"updatePending\"")).expect("an example");
    let example: serde_json::Value = serde_json::from_str(&example.text).expect("JSON");
    let real = serde_json::to_value(view).expect("serializes");
    assert_eq!(example, real, "docs/api.md shows another workspace than the API answers");
    // The example's fields, those of other states, and those one level down have a row each.
    let others = serde_json::to_value(pulling).expect("serializes");
    for (name, value) in real.as_object().expect("an object").iter().chain(others.as_object().expect("an object")) {
        assert!(page.contains(&format!("| `{name}` |")), "docs/api.md does not explain {name}");
        for inner in value.as_object().into_iter().flat_map(|object| object.keys()) {
            assert!(page.contains(&format!("`{name}.{inner}`")), "docs/api.md does not explain {name}.{inner}");
        }
    }
}

#[test]
fn every_link_and_picture_is_there() {
    let documents = documents();
    let mut broken = Vec::new();
    for (path, document) in &documents {
        let prose = without_code(&split(document).1);
        for (line, target) in between(&prose, "](", ')') {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let leads_to = if file.is_empty() { path.clone() } else { join(path, file) };
            let there = root().join(&leads_to).exists();
            let anchored =
                anchor.is_empty() || documents.get(&leads_to).is_some_and(|text| anchors(text).contains(anchor));
            if !there || !anchored {
                broken.push(format!("{}:{line}: {target}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "these lead nowhere:\n{}\n", broken.join("\n"));
}

/// A relative path from a document, without `.` and `..`.
fn join(document: &Path, file: &str) -> PathBuf {
    let mut joined = document.parent().unwrap_or(Path::new("")).to_owned();
    for part in file.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(joined.pop()),
            part => joined.push(part),
        }
    }
    joined
}

/// The text with what stands between backticks blanked out.
fn without_code(prose: &str) -> String {
    let blank = |(at, part): (usize, &str)| if at % 2 == 1 { " ".repeat(part.len()) } else { part.to_owned() };
    prose.lines().map(|line| line.split('`').enumerate().map(blank).collect::<String>() + "\n").collect()
}

/// The anchors that a document's headings have, as the usual viewers make them.
fn anchors(document: &str) -> BTreeSet<String> {
    let prose = split(document).1;
    let headings = prose.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    headings
        .map(|heading| {
            let kept = heading
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c))
                .collect::<String>();
            kept.replace(' ', "-")
        })
        .collect()
}

fn csm(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_csm")).args(arguments).output().expect("csm runs");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn every_verb_and_option_is_on_the_command_line() {
    let help = csm(&["--help"]);
    let (_, listed) = help.split_once("Commands:\n").expect("a list of verbs");
    let verbs: BTreeSet<&str> = listed
        .lines()
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(verbs.contains("up") && verbs.len() > 10, "{verbs:?}");
    let mut options: BTreeMap<String, String> = BTreeMap::new();
    let mut seen = 0;
    for (path, document) in documents() {
        let (blocks, prose) = split(&document);
        let shell = blocks.iter().filter(|block| matches!(block.language.as_str(), "sh" | "bash" | "console"));
        let lines =
            shell.flat_map(|block| block.text.lines().enumerate().map(|(at, line)| (block.line + at + 1, line)));
        for (line, text) in lines.chain(between(&prose, "`", '`')) {
            for call in calls(text) {
                let place = format!("{}:{line}: {text}", path.display());
                let Some(verb) = call.first() else { continue };
                if verb.starts_with("--") {
                    assert!(help.contains(verb.as_str()), "{place}: csm has no option {verb}");
                    continue;
                }
                assert!(verbs.contains(verb.as_str()), "{place}: csm has no verb \"{verb}\"");
                seen += 1;
                let known = options.entry(verb.clone()).or_insert_with(|| csm(&[verb, "--help"]));
                let given = call.iter().skip(1).take_while(|word| *word != "--").filter(|word| word.starts_with('-'));
                for option in given {
                    let name = option.split('=').next().unwrap_or_default();
                    assert!(
                        known.split([' ', ',', '\n']).any(|word| word == name),
                        "{place}: csm {verb} has no option {name}"
                    );
                }
            }
        }
    }
    assert!(seen > 20, "the verbs were not found");
}

/// The arguments of each call of csm in a line of shell.
fn calls(line: &str) -> Vec<Vec<String>> {
    let line = line.split(" #").next().unwrap_or_default();
    let mut calls = Vec::new();
    for command in line.split(['|', ';', '&', '(']) {
        let mut words = command.split_whitespace().map(|word| word.trim_matches(['"', '\'', ')', '`', ',']).to_owned());
        // What may stand in front of a command.
        let first = words.find(|word| !matches!(word.as_str(), "$" | "sudo" | "exec") && !word.contains('='));
        if first.is_some_and(|word| word == "csm" || word.ends_with("/csm")) {
            calls.push(words.collect());
        }
    }
    calls
}

#[test]
fn every_file_of_the_code_map_is_there_and_every_file_is_on_it() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("readable");
    let prose = split(&text).1;
    let named: BTreeSet<&str> = between(&prose, "`", '`')
        .into_iter()
        .map(|(_, word)| word)
        .filter(|word| {
            let first = word.split('/').next().unwrap_or_default();
            word.contains('/')
                && matches!(first, "src" | "share" | "templates" | "tests" | "scripts" | "images" | "docs" | "benches")
                && !word.contains(['*', '<', ' '])
        })
        .collect();
    assert!(named.len() > 40, "the code map was not found");
    for name in &named {
        assert!(root().join(name).exists(), "ARCHITECTURE.md names {name}, which is not there");
    }
    let mut waiting = vec![root().join("src")];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).expect("readable") {
            let path = entry.expect("readable").path();
            let name = path.strip_prefix(root()).expect("below the root").display().to_string();
            // Unit tests are beside what they test.
            if path.ends_with("tests") || path.ends_with("tests.rs") {
                continue;
            }
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                // A directory below a layer can have one line for all that is in it.
                let by_directory = named
                    .iter()
                    .any(|place| place.ends_with('/') && place.matches('/').count() > 2 && name.starts_with(place));
                let mapped = by_directory || named.contains(name.as_str());
                assert!(mapped, "{name} has no line in ARCHITECTURE.md's code map");
            }
        }
    }
}

#[test]
fn calls_of_csm_are_found_where_they_are() {
    let found = |line: &str| calls(line).iter().map(|call| call.join(" ")).collect::<Vec<_>>();
    assert_eq!(found("PATH=$PATH:/usr/sbin csm up manifest.json"), ["up manifest.json"]);
    assert_eq!(found("printf %s secret | csm hash-password > file"), ["hash-password > file"]);
    assert_eq!(found("$ sudo target/release/csm status --json # csm nonsense"), ["status --json"]);
    assert_eq!(found("echo csm up"), Vec::<String>::new());
}
