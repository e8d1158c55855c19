//! No two modules of `src/` use each other, directly or by way of others: what is in a circle can only be understood, tested and
//! changed together. A directory and its files count as one for what is outside of it; within it, each file is a module. What the
//! files of a directory share may be in its `mod.rs`, and that may use them: it is what they are parts of.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says what is wrong by failing")]

use std::collections::{BTreeMap, BTreeSet};

mod source;

use source::{code_of, uses_of, without_tests};

/// A module's path from the crate's root: `["http", "pages"]`.
type Module = Vec<String>;

/// Whom each module uses, among those beside it.
type Arrows = BTreeMap<Module, BTreeSet<Module>>;

#[test]
fn no_modules_use_each_other_in_a_circle() {
    let circles = circles(&source::files());
    assert!(
        circles.is_empty(),
        "break these circles, such as by moving what both need into a module of its own:\n{}\n",
        circles.join("\n")
    );
}

fn circles(files: &[(String, String)]) -> Vec<String> {
    let modules: BTreeSet<Module> = files.iter().map(|(path, _)| module(path)).collect();
    let mut arrows = Arrows::new();
    for (path, text) in files {
        let from = module(path);
        if from.iter().any(|part| part == "tests") {
            continue;
        }
        for used in paths(&without_tests(&code_of(text)), &from, &modules) {
            // From where their ways part, up to the names there.
            let common = from.iter().zip(&used).take_while(|(a, b)| a == b).count();
            if common < from.len() && common < used.len() {
                arrows.entry(from[..=common].to_vec()).or_default().insert(used[..=common].to_vec());
            }
        }
    }
    let mut circles = BTreeSet::new();
    for start in arrows.keys() {
        if let Some(circle) = way_back(&arrows, start) {
            // Each is found from all of its modules: named from the first one.
            let first = circle.iter().enumerate().min_by_key(|(_, module)| *module).map_or(0, |(at, _)| at);
            let names: Vec<String> =
                (0..=circle.len()).map(|at| circle[(first + at) % circle.len()].join("::")).collect();
            circles.insert(names.join(" → "));
        }
    }
    circles.into_iter().collect()
}

/// The shortest way from a module back to it.
fn way_back(arrows: &Arrows, start: &Module) -> Option<Vec<Module>> {
    let mut seen = BTreeSet::new();
    let mut ways = vec![vec![start.clone()]];
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in way.last().and_then(|last| arrows.get(last)).into_iter().flatten() {
                if next == start {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push([way.clone(), vec![next.clone()]].concat());
                }
            }
        }
        ways = longer;
    }
    None
}

/// The module that a file below `src/` is.
fn module(path: &str) -> Module {
    let parts = path.trim_end_matches(".rs").split('/');
    parts.filter(|part| !matches!(*part, "mod" | "lib" | "main")).map(str::to_owned).collect()
}

/// The modules that the paths in a file's code name, each as far as it is a module.
fn paths(code: &str, from: &Module, modules: &BTreeSet<Module>) -> BTreeSet<Module> {
    let mut named: Vec<Module> = Vec::new();
    for root in ["crate", "code_server_multi"] {
        for at in uses_of(code, root) {
            expand(&code[at + root.len()..], &[], &mut named);
        }
    }
    for at in uses_of(code, "super") {
        if code[..at].ends_with("::") {
            continue;
        }
        let (mut rest, mut base) = (&code[at..], from.as_slice());
        while let Some(next) = rest.strip_prefix("super").filter(|next| next.starts_with("::")) {
            base = &base[..base.len().saturating_sub(1)];
            rest = next.strip_prefix("::").unwrap_or(next);
        }
        expand(&format!("::{rest}"), base, &mut named);
    }
    let longest = |path: Module| (1..=path.len()).rev().map(|n| path[..n].to_vec()).find(|path| modules.contains(path));
    named.into_iter().filter_map(longest).collect()
}

/// Every path that begins with `base` and goes on as `::a::b` or `::{a::b, c}` does.
fn expand(rest: &str, base: &[String], found: &mut Vec<Module>) {
    let mut path = base.to_vec();
    let mut rest = rest.trim_start();
    while let Some(next) = rest.strip_prefix("::") {
        let next = next.trim_start();
        if let Some(group) = next.strip_prefix('{') {
            for part in parts(group) {
                expand(&format!("::{}", part.trim()), &path, found);
            }
            return;
        }
        let name: String = next.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        rest = &next[name.len()..];
        path.push(name);
    }
    found.push(path);
}

/// What is between the commas of a group, up to its end.
fn parts(group: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    parts
}

#[cfg(test)]
mod this_test_can_fail {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        circles(&files)
    }

    #[test]
    fn circles_are_found_however_they_are_written() {
        for (a, b) in [
            ("use super::b::B;", "use super::a::A;"),
            ("use crate::http::b;", "use super::{c::C, a::{self, A}};"),
            ("fn f() { super::b::f() }", "fn f() { crate::http::a::f() }"),
        ] {
            let files =
                [("http/mod.rs", "mod a; mod b; mod c;"), ("http/a.rs", a), ("http/b.rs", b), ("http/c.rs", "")];
            assert_eq!(found(&files), ["http::a → http::b → http::a"], "{a} {b}");
        }
        let long = [("a.rs", "use super::b;"), ("b.rs", "use crate::c::C;"), ("c.rs", "use crate::{b::B, a};")];
        assert_eq!(found(&long), ["a → b → c → a", "b → c → b"]);
    }

    #[test]
    fn a_directory_is_one_for_what_is_outside_of_it() {
        let files = [("a/mod.rs", ""), ("a/x.rs", "use crate::b::B;"), ("b.rs", "use crate::a::y::Y;"), ("a/y.rs", "")];
        assert_eq!(found(&files), ["a → b → a"]);
    }

    #[test]
    fn what_is_no_circle_passes() {
        let parts = [
            ("a/mod.rs", "mod x; use x::X; pub struct A;"),
            ("a/x.rs", "use super::A;"),
            ("a/y.rs", "use super::x::X;"),
        ];
        assert_eq!(found(&parts), Vec::<String>::new(), "a module and its own parts");
        let tests =
            [("a.rs", "#[cfg(test)]\nmod tests { use crate::b::B; }"), ("b.rs", "// crate::b\nuse crate::a::A;")];
        assert_eq!(found(&tests), Vec::<String>::new(), "tests");
        let file = [("a.rs", "use crate::b::B;"), ("b.rs", ""), ("b/tests.rs", "use crate::a::A;")];
        assert_eq!(found(&file), Vec::<String>::new(), "files of tests");
    }
}
