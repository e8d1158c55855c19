//! An arrow between layers only ever points down. `ARCHITECTURE.md` tells the layers; this reads the source and holds it to them.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

mod source;

use source::{code_of, uses_of, without_tests};

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
    ("rusqlite_migration", &["adapters"]),
    ("sd_notify", &["commands"]),
    ("zbus", &["adapters"]),
];

#[test]
fn every_arrow_points_down() {
    let faults: Vec<String> = source::files().iter().flat_map(|(path, text)| faults(path, text)).collect();
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
