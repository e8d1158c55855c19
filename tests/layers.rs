//! An arrow between layers only ever points down. `ARCHITECTURE.md` tells the layers; this reads the source and holds it to them.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, the highest first. A layer may use itself and every layer on a line below its own; those on one line don't know each
/// other.
const ORDER: &[&[&str]] =
    &[&["commands"], &["http"], &["daemon"], &["adapters"], &["ports"], &["plan", "access", "activity"], &["model"]];

/// Layers that do no input or output and know no clock.
const PURE: &[&str] = &["model", "plan", "access", "activity"];

/// What a pure layer can't name. Of `std::net` it may have the types that only hold an address.
const IMPURE: &[&str] =
    &["std::fs", "std::process", "std::env", "std::io", "std::os", "std::thread", "tokio", "SystemTime", "Instant"];
const ADDRESSES: &[&str] = &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6"];

/// Methods of `std::path::Path` that look at the disk.
const LOOKS: &[&str] =
    &["exists", "try_exists", "is_file", "is_dir", "is_symlink", "canonicalize", "metadata", "read_dir", "read_link"];

/// Crates that have a home, and the layers that may name them.
const HOMES: &[(&str, &[&str])] = &[
    ("askama", &["http"]),
    ("axum", &["http"]),
    ("cap_std", &["adapters"]),
    ("clap", &["commands"]),
    ("notify", &["adapters"]),
    ("podman_api", &["adapters"]),
    ("rusqlite", &["adapters"]),
    ("sd_notify", &["commands"]),
    ("zbus", &["adapters"]),
];

#[test]
fn every_arrow_points_down() {
    let mut files = Vec::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    rust_files(&source, &mut files);
    assert!(files.len() > 20, "the source was not found");
    let faults: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let text = fs::read_to_string(file).expect("readable");
            faults(&file.strip_prefix(&source).expect("below src").display().to_string(), &text)
        })
        .collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_module_has_its_place_in_the_order() {
    let library = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("readable");
    let known: BTreeSet<&str> = ORDER.concat().into_iter().collect();
    for module in library.lines().filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';')) {
        assert!(known.contains(module), "src/lib.rs: the module \"{module}\" has no place in ORDER of tests/layers.rs");
    }
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

/// What is wrong with one file, `path` being below `src/`. Each fault names file, line and rule.
fn faults(path: &str, text: &str) -> Vec<String> {
    let module: Vec<&str> = path.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").collect();
    let layer = module[0];
    // The crate's roots only put layers together; a file of tests is no part of its layer.
    if matches!(layer, "lib" | "main") || module.last() == Some(&"tests") {
        return Vec::new();
    }
    let code = without_tests(&code_of(text));
    let mut faults = Vec::new();
    let mut fault = |at: usize, what: String| {
        let line = 1 + code[..at].matches('\n').count();
        faults.push(format!("src/{path}:{line}: {what}"));
    };
    let Some(place) = place(layer) else {
        fault(0, format!("the layer \"{layer}\" has no place in ORDER of tests/layers.rs"));
        return faults;
    };
    for (at, used) in layers_used(&code, module.len()) {
        match self::place(&used) {
            _ if used == layer => {}
            None => {}
            Some(below) if below > place => {}
            Some(beside) if beside == place => {
                fault(at, format!("\"{layer}\" uses \"{used}\" beside it; layers on one line don't know each other"));
            }
            Some(_) => fault(at, format!("\"{layer}\" uses \"{used}\" above it; arrows only point down")),
        }
    }
    for (name, homes) in HOMES.iter().filter(|(_, homes)| !homes.contains(&layer)) {
        for at in uses_of(&code, name) {
            fault(at, format!("\"{layer}\" names the crate {name}, whose home is {}", homes.join(" and ")));
        }
    }
    if PURE.contains(&layer) {
        for name in IMPURE {
            for at in uses_of(&code, name) {
                fault(at, format!("\"{layer}\" is pure and names {name}; pure layers do no I/O and know no clock"));
            }
        }
        for at in uses_of(&code, "std::net") {
            for name in imported(&code[at + "std::net".len()..]) {
                if !ADDRESSES.contains(&name.as_str()) {
                    fault(at, format!("\"{layer}\" is pure and names std::net::{name}; only addresses are values"));
                }
            }
        }
        for method in LOOKS {
            let call = format!(".{method}(");
            for (at, _) in code.match_indices(&call) {
                fault(at, format!("\"{layer}\" is pure and calls {call}), which looks at the disk"));
            }
        }
    }
    faults
}

fn place(layer: &str) -> Option<usize> {
    ORDER.iter().position(|line| line.contains(&layer))
}

/// The modules right below the crate's root that a text names, each with where: by `crate::`, or by `super::` as often as it
/// takes from a module `depth` levels deep.
fn layers_used(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    for root in ["crate", "code_server_multi"] {
        for at in uses_of(code, root) {
            used.extend(imported(&code[at + root.len()..]).into_iter().map(|name| (at, name)));
        }
    }
    for at in uses_of(code, "super") {
        if code[..at].ends_with("::") {
            continue;
        }
        let mut rest = &code[at..];
        let mut levels = 0;
        while let Some(next) = rest.strip_prefix("super") {
            (rest, levels) = (next.strip_prefix("::").unwrap_or(""), levels + 1);
        }
        if levels >= depth {
            used.extend(imported(&format!("::{rest}")).into_iter().map(|name| (at, name)));
        }
    }
    used.sort();
    used
}

/// The first names after a path's root: `::a::b` and `::{a::b, c}`.
fn imported(rest: &str) -> Vec<String> {
    let Some(rest) = rest.trim_start().strip_prefix("::") else { return Vec::new() };
    let rest = rest.trim_start();
    let Some(group) = rest.strip_prefix('{') else { return vec![identifier(rest)] };
    let mut names = Vec::new();
    let mut depth = 0;
    let mut start = true;
    for (at, character) in group.char_indices() {
        match character {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            _ if start && !character.is_whitespace() => {
                names.push(identifier(&group[at..]));
                start = false;
            }
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Where a path is named as such: not as a part of a longer word, and not below another path.
fn uses_of(code: &str, path: &str) -> Vec<usize> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let first = |at: usize| {
        let before = &code[..at];
        // `::tokio` is the crate all the same; `x::Instant` counts for a bare word too.
        let below = before.ends_with("::") && !path.chars().next().is_some_and(char::is_uppercase);
        let absolute = before.strip_suffix("::").is_some_and(|rest| !rest.ends_with(word));
        !before.ends_with(word) && (!below || absolute)
    };
    let last = |at: usize| !code[at + path.len()..].starts_with(word);
    // A lower-case word without `::` after it is a variable or a field of that name.
    let path_goes_on = |at: usize| {
        path.contains("::")
            || path.chars().next().is_some_and(char::is_uppercase)
            || code[at + path.len()..].starts_with("::")
            || code[..at].ends_with("use ")
    };
    code.match_indices(path).map(|(at, _)| at).filter(|at| first(*at) && last(*at) && path_goes_on(*at)).collect()
}

/// The text with comments and what is in quotes blanked out; lines stay where they are.
fn code_of(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    let blank = |code: &mut String, c: char| code.push(if c == '\n' { '\n' } else { ' ' });
    while at < bytes.len() {
        let here = bytes[at];
        let rest = |n: usize| bytes.get(at + n).copied().unwrap_or('\0');
        let word_before = at > 0 && (bytes[at - 1].is_alphanumeric() || bytes[at - 1] == '_');
        let end = if here == '/' && rest(1) == '/' {
            bytes[at..].iter().position(|c| *c == '\n').map_or(bytes.len(), |n| at + n)
        } else if here == '/' && rest(1) == '*' {
            (at + 2..bytes.len())
                .find(|n| bytes[*n - 1] == '*' && bytes[*n] == '/' && *n > at + 2)
                .map_or(bytes.len(), |n| n + 1)
        } else if here == '"' {
            let mut n = at + 1;
            while n < bytes.len() && bytes[n] != '"' {
                n += if bytes[n] == '\\' { 2 } else { 1 };
            }
            n + 1
        } else if here == 'r' && !word_before && matches!(rest(1), '"' | '#') {
            let hashes = bytes[at + 1..].iter().take_while(|c| **c == '#').count();
            if bytes.get(at + 1 + hashes) == Some(&'"') {
                let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                let body = at + hashes + 2;
                bytes[body..]
                    .windows(close.len())
                    .position(|w| w == close)
                    .map_or(bytes.len(), |n| body + n + close.len())
            } else {
                at
            }
        } else if here == '\'' && (rest(1) == '\\' || rest(2) == '\'') {
            // A character; anything else with this sign is a lifetime.
            (at + 2..bytes.len())
                .find(|n| bytes[*n] == '\'' && (bytes[*n - 1] != '\\' || bytes[*n - 2] == '\\'))
                .map_or(bytes.len(), |n| n + 1)
        } else {
            at
        };
        if end == at {
            code.push(here);
            at += 1;
        } else {
            bytes[at..end.min(bytes.len())].iter().for_each(|c| blank(&mut code, *c));
            at = end;
        }
    }
    code
}

/// The code with every item under `#[cfg(test)]` blanked out.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(start) = out.find("#[cfg(test)]") {
        let mut depth = 0_usize;
        let length = out[start + 1..].char_indices().find_map(|(at, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            (depth == 0 && matches!(c, '}' | ';')).then_some(at + 2)
        });
        let end = length.map_or(out.len(), |length| start + length);
        let blank: String = out[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &blank);
    }
    out
}

#[cfg(test)]
mod this_test_can_fail {
    use super::*;

    fn one(path: &str, text: &str, says: &str) {
        let found = faults(path, text);
        assert_eq!(found.len(), 1, "{path}: {text}: {found:?}");
        assert!(found[0].contains(says), "{}", found[0]);
    }

    fn none(path: &str, text: &str) {
        assert_eq!(faults(path, text), Vec::<String>::new(), "{path}: {text}");
    }

    #[test]
    fn an_arrow_up_or_sideways_is_found_with_its_line() {
        one("model/name.rs", "\n\nuse crate::plan::plan;\n", "src/model/name.rs:3: \"model\" uses \"plan\" above it");
        one("daemon/mod.rs", "fn f() { crate::http::serve(); }", "arrows only point down");
        one("adapters/podman/mod.rs", "use crate::{model::label::Label, daemon::Verb};", "uses \"daemon\" above it");
        one("plan/mod.rs", "use crate::access::site::Site;", "uses \"access\" beside it");
        one("ports.rs", "use super::daemon::Verb;", "uses \"daemon\" above it");
        one("adapters/nginx/config.rs", "use super::super::super::http::App;", "uses \"http\" above it");
        one("plan/mod.rs", "use code_server_multi::daemon::Verb;", "uses \"daemon\" above it");
        one("surprise.rs", "", "has no place in ORDER");
    }

    #[test]
    fn arrows_down_and_words_that_look_like_arrows_pass() {
        none("http/mod.rs", "use crate::{daemon::{Handle, view::View}, model::name::Name};\nuse super::App;");
        none("adapters/nginx/config.rs", "use super::super::files; use crate::ports::Runtime;");
        none(
            "model/name.rs",
            "// crate::http::x\n/* use crate::http; */ const A: &str = \"crate::http\"; const B: char = '\"';",
        );
        none("model/name.rs", "const A: &str = r#\"use crate::http::x \" \"#; fn f<'a>(x: &'a str) {}");
        none("model/name.rs", "#[cfg(test)]\nmod tests { use crate::daemon::Daemon; fn f() { if true {} } }\n");
        none("plan/mod.rs", "#[cfg(test)]\nmod tests;\n");
        none("daemon/tests.rs", "use crate::http::App;");
    }

    #[test]
    fn what_follows_a_test_module_counts_again() {
        one("model/name.rs", "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::http::App;", "src/model/name.rs:3:");
    }

    #[test]
    fn the_pure_are_pure() {
        for (text, says) in [
            ("use std::fs;", "std::fs"),
            ("fn f() { std::process::exit(1) }", "std::process"),
            ("fn f() { std::env::var_os(\"X\"); }", "std::env"),
            ("use tokio::sync::watch;", "tokio"),
            ("use std::time::{Duration, Instant};", "Instant"),
            ("fn f() { std::time::SystemTime::now(); }", "SystemTime"),
            ("use std::net::{IpAddr, TcpStream};", "std::net::TcpStream"),
            ("fn f(p: &Path) -> bool { p.exists() }", "looks at the disk"),
        ] {
            one("access/site.rs", text, says);
        }
        none("access/site.rs", "use std::net::{IpAddr, SocketAddr}; use std::time::Duration; use std::path::Path;");
        none("adapters/files.rs", "use std::fs; use tokio::process::Command;");
        none("model/size.rs", "const V: &str = env!(\"X\"); struct Instants; fn f(tokio: u8) -> u8 { tokio }");
    }

    #[test]
    fn crates_stay_at_home() {
        one("daemon/mod.rs", "use axum::Router;", "whose home is http");
        one("http/mod.rs", "fn f(p: &podman_api::Podman) {}", "whose home is adapters");
        none("http/mod.rs", "use axum::Router; let notify = 1;");
    }
}
