//! What programs print, made safe to show and bounded by bytes.
//!
//! A terminal or a browser obeys some characters instead of showing them. They become their number, as in Rust: `\u{1b}` for ESC.

use std::collections::VecDeque;
use std::fmt::Write as _;

/// The most bytes of one line, with the mark of what was cut.
pub const MAX_LINE: usize = 4 << 10;

/// What the longest mark takes.
const MARK: usize = 48;

/// What is kept of a line that is still being read: a character that ends behind [`MAX_LINE`] is never shown, even half of it.
const KEPT: usize = MAX_LINE + 4;

/// One line from any text: its line ends become spaces.
pub fn one_line(text: &str) -> String {
    let parts: Vec<&str> = text.lines().map(str::trim).filter(|part| !part.is_empty()).collect();
    line(parts.join(" ").as_bytes())
}

/// A line of bytes without its end. What it returns is left as it is when it comes here again.
pub fn line(bytes: &[u8]) -> String {
    show(bytes, 0)
}

/// Whether a character is shown as its number: control characters but tab, the two line separators, and what changes the direction
/// of the text after it.
pub fn is_hidden(c: char) -> bool {
    (c.is_control() && c != '\t') || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `more`: how many bytes followed that were not kept.
fn show(kept: &[u8], more: u64) -> String {
    let mut shown = String::new();
    let mut taken = 0;
    // Where it is cut, if it must be: how much is shown until there, and of how many bytes.
    let mut cut = (0, 0);
    'long: for chunk in kept.utf8_chunks() {
        let bad = (!chunk.invalid().is_empty()).then_some((char::REPLACEMENT_CHARACTER, chunk.invalid().len()));
        for (c, bytes) in chunk.valid().chars().map(|c| (c, c.len_utf8())).chain(bad) {
            if is_hidden(c) {
                shown.extend(c.escape_unicode());
            } else {
                shown.push(c);
            }
            if shown.len() > MAX_LINE {
                break 'long;
            }
            taken += bytes;
            if shown.len() <= MAX_LINE - MARK {
                cut = (shown.len(), taken);
            }
        }
    }
    if taken < kept.len() || more > 0 {
        shown.truncate(cut.0);
        let _ = write!(shown, "… ({} bytes cut)", (kept.len() - cut.1) as u64 + more);
    }
    shown
}

/// Makes lines of bytes as they come. However long a line is, little of it is kept.
#[derive(Debug, Default)]
pub struct Lines {
    kept: Vec<u8>,
    more: u64,
}

impl Lines {
    /// Takes what was printed next, and returns the lines that it completes.
    pub fn push(&mut self, mut bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            lines.push(self.take());
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
        lines
    }

    /// What came after the last line's end, if anything did.
    pub fn finish(&mut self) -> Option<String> {
        (!self.kept.is_empty()).then(|| self.take())
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = (KEPT - self.kept.len()).min(bytes.len());
        self.kept.extend_from_slice(&bytes[..room]);
        self.more += (bytes.len() - room) as u64;
    }

    fn take(&mut self) -> String {
        // Windows' line end, and that of a progress bar's last step.
        if self.more == 0 && self.kept.last() == Some(&b'\r') {
            self.kept.pop();
        }
        let line = show(&self.kept, self.more);
        self.kept.clear();
        self.more = 0;
        line
    }
}

/// The newest lines, bounded by the bytes that they take in a page.
#[derive(Debug)]
pub struct Tail {
    most: usize,
    bytes: usize,
    lines: VecDeque<String>,
    left_out: u64,
}

impl Tail {
    /// Keeps at most this many bytes.
    pub fn new(most: usize) -> Self {
        // The first line may have to say what was left out.
        Self { most: most.saturating_sub(MARK), bytes: 0, lines: VecDeque::new(), left_out: 0 }
    }

    /// Takes the next line, in place of the oldest ones if there is no room.
    pub fn push(&mut self, line: String) {
        self.bytes += in_page(&line);
        self.lines.push_back(line);
        while self.bytes > self.most {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= in_page(&oldest);
            self.left_out += 1;
        }
    }

    /// The lines, the oldest first. When some were left out, the first line says so.
    pub fn into_lines(self) -> Vec<String> {
        let note = (self.left_out > 0).then(|| format!("… ({} earlier lines left out)", self.left_out));
        note.into_iter().chain(self.lines).collect()
    }
}

/// A line's bytes in a page, where some characters are written as `&#60;`.
fn in_page(line: &str) -> usize {
    const ESCAPED: &[u8] = b"<>&\"'";
    line.len() + 1 + 4 * line.bytes().filter(|byte| ESCAPED.contains(byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_or_a_browser_obeys_is_shown() {
        assert_eq!(line(b"\x1b[31mred\x1b]0;title\x07"), r"\u{1b}[31mred\u{1b}]0;title\u{7}");
        assert_eq!(line("a\u{9b}2J\u{7f}\0\r\u{202e}b\u{2066}c\u{2028}".as_bytes()), {
            r"a\u{9b}2J\u{7f}\u{0}\u{d}\u{202e}b\u{2066}c\u{2028}"
        });
        assert_eq!(line("tab\there, <b>, \u{5d0}, 👍🏽".as_bytes()), "tab\there, <b>, \u{5d0}, 👍🏽");
        assert_eq!(line(b"a\xff\xc3"), "a\u{fffd}\u{fffd}");
        assert_eq!(one_line(" first\n\n  second\u{1b}\r\nthird\n"), r"first second\u{1b} third");
    }

    #[test]
    fn a_long_line_is_cut_and_says_by_how_much() {
        let whole = "x".repeat(MAX_LINE);
        assert_eq!(line(whole.as_bytes()), whole);
        let long = line("x".repeat(10_000).as_bytes());
        assert_eq!(long, "x".repeat(MAX_LINE - MARK) + "… (5952 bytes cut)");
        let escapes = line("\u{1b}".repeat(MAX_LINE).as_bytes());
        assert!(escapes.len() <= MAX_LINE && escapes.ends_with(r"\u{1b}… (3422 bytes cut)"), "{escapes}");
    }

    #[test]
    fn a_line_that_never_ends_takes_no_memory() {
        let mut lines = Lines::default();
        for _ in 0..10_000 {
            assert!(lines.push(&[b'<'; 1000]).is_empty());
            assert!(lines.kept.capacity() <= 2 * KEPT);
        }
        let shown = lines.push(b"\nnext\r\nlast").join("|");
        assert!(shown.len() < MAX_LINE + 10 && shown.ends_with("<… (9995952 bytes cut)|next"), "{shown}");
        assert_eq!(lines.finish().as_deref(), Some("last"));
        assert_eq!(lines.finish(), None);
    }

    #[test]
    fn the_newest_lines_are_kept_and_it_says_that_there_were_others() {
        let mut tail = Tail::new(1000);
        for n in 0..1000 {
            tail.push(format!("<{n}>"));
        }
        let lines = tail.into_lines();
        assert_eq!(lines.last().map(String::as_str), Some("<999>"));
        assert_eq!(lines[0], format!("… ({} earlier lines left out)", 1000 - (lines.len() - 1)));
        assert!(lines.iter().map(|line| in_page(line)).sum::<usize>() <= 1000 && lines.len() > 50, "{}", lines.len());
        let mut short = Tail::new(1000);
        short.push("one".to_owned());
        assert_eq!(short.into_lines(), ["one"]);
    }

    proptest! {
        #[test]
        fn it_is_safe_bounded_and_the_same_again(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
            let shown = line(&bytes);
            prop_assert!(shown.len() <= MAX_LINE && !shown.chars().any(is_hidden));
            prop_assert_eq!(line(shown.as_bytes()), shown);
        }

        #[test]
        fn where_it_was_split_makes_no_difference(
            text in prop::collection::vec(prop::sample::select(b"a<\xc3\xa4\x1b\n".to_vec()), 0..200),
            at in 0usize..200,
            long in any::<bool>(),
        ) {
            let mut text = text;
            if long {
                let body = text.repeat(60);
                text = body.into_iter().filter(|byte| *byte != b'\n').collect();
            }
            let at = at.min(text.len());
            let (mut whole, mut parts) = (Lines::default(), Lines::default());
            let mut expected = whole.push(&text);
            expected.extend(whole.finish());
            let mut actual = parts.push(&text[..at]);
            actual.extend(parts.push(&text[at..]));
            actual.extend(parts.finish());
            prop_assert_eq!(&actual, &expected);
        }
    }
}
