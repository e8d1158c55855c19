//! The source, read as text: what the tests of layers and circles share.

use std::fs;
use std::path::{Path, PathBuf};

/// Every file below `src/`, by its path there, with its text.
pub(crate) fn files() -> Vec<(String, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    assert!(files.len() > 20, "the source was not found");
    let below = |file: &PathBuf| file.strip_prefix(&source).expect("below src").display().to_string();
    files.iter().map(|file| (below(file), fs::read_to_string(file).expect("readable"))).collect()
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

/// Where a path is named as such: not as a part of a longer word, and not below another path.
pub(crate) fn uses_of(code: &str, path: &str) -> Vec<usize> {
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
pub(crate) fn code_of(text: &str) -> String {
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
pub(crate) fn without_tests(code: &str) -> String {
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
