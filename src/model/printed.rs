//! Makes the output of programs safe to display, and limits its size.
//!
//! Terminals and browsers interpret some characters instead of showing them. These are escaped as in Rust: `\u{1b}` for ESC.

use std::collections::VecDeque;
use std::fmt::Write as _;

/// The maximum size of an escaped line in bytes, including the note about what was cut.
pub const MAX_LINE: usize = 4 << 10;

/// Bytes reserved for the note about what was cut or left out.
const MAX_NOTE: usize = 48;

/// How many bytes of an incomplete line are buffered. A character that is split at the buffer's end starts after [`MAX_LINE`], so it is
/// never shown.
const MAX_BUFFERED: usize = MAX_LINE + 4;

/// Joins the lines of a text with spaces, and escapes the result.
pub fn to_one_line(text: &str) -> String {
    let parts: Vec<&str> = text.lines().map(str::trim).filter(|part| !part.is_empty()).collect();
    escape_line(parts.join(" ").as_bytes())
}

/// Escapes a line without its line ending. Escaping the result again does not change it.
pub fn escape_line(bytes: &[u8]) -> String {
    escape(bytes, 0)
}

/// True for characters that are escaped: control characters except tab, the two line separators, and characters that change the
/// direction of text.
pub fn is_escaped(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Escapes the start of a line. `dropped` is the number of bytes that followed it and were not buffered.
fn escape(buffered: &[u8], dropped: u64) -> String {
    let mut escaped = String::new();
    let mut taken = 0;
    // Where to cut a line that is too long: the length of the output, and of the input that it comes from.
    let mut cut = (0, 0);
    'too_long: for chunk in buffered.utf8_chunks() {
        let invalid = (!chunk.invalid().is_empty()).then_some((char::REPLACEMENT_CHARACTER, chunk.invalid().len()));
        for (c, bytes) in chunk.valid().chars().map(|c| (c, c.len_utf8())).chain(invalid) {
            if is_escaped(c) {
                escaped.extend(c.escape_unicode());
            } else {
                escaped.push(c);
            }
            if escaped.len() > MAX_LINE {
                break 'too_long;
            }
            taken += bytes;
            if escaped.len() <= MAX_LINE - MAX_NOTE {
                cut = (escaped.len(), taken);
            }
        }
    }
    if taken < buffered.len() || dropped > 0 {
        escaped.truncate(cut.0);
        let _ = write!(escaped, "… ({} bytes cut)", (buffered.len() - cut.1) as u64 + dropped);
    }
    escaped
}

/// Splits a stream of bytes into escaped lines. It buffers only the start of a long line.
#[derive(Debug, Default)]
pub struct Lines {
    buffered: Vec<u8>,
    dropped: u64,
}

impl Lines {
    /// Adds the next bytes, and returns the lines that they complete.
    pub fn push(&mut self, mut bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.buffer(&bytes[..end]);
            lines.push(self.take_line());
            bytes = &bytes[end + 1..];
        }
        self.buffer(bytes);
        lines
    }

    /// Returns the last line if it has no line ending.
    pub fn finish(&mut self) -> Option<String> {
        (!self.buffered.is_empty()).then(|| self.take_line())
    }

    fn buffer(&mut self, bytes: &[u8]) {
        let room = (MAX_BUFFERED - self.buffered.len()).min(bytes.len());
        self.buffered.extend_from_slice(&bytes[..room]);
        self.dropped += (bytes.len() - room) as u64;
    }

    fn take_line(&mut self) -> String {
        // Windows ends lines with "\r\n", and so do some progress bars.
        if self.dropped == 0 && self.buffered.last() == Some(&b'\r') {
            self.buffered.pop();
        }
        let line = escape(&self.buffered, self.dropped);
        self.buffered.clear();
        self.dropped = 0;
        line
    }
}

/// The newest lines of an output, limited by their size in a page.
#[derive(Debug)]
pub struct Tail {
    max_bytes: usize,
    bytes: usize,
    lines: VecDeque<String>,
    left_out: u64,
}

impl Tail {
    /// Creates an empty tail that keeps at most this many bytes.
    pub fn new(max_bytes: usize) -> Self {
        // The rest is reserved for the note about lines that were left out.
        Self { max_bytes: max_bytes.saturating_sub(MAX_NOTE), bytes: 0, lines: VecDeque::new(), left_out: 0 }
    }

    /// Adds the next line, and removes the oldest lines if the limit is exceeded.
    pub fn push(&mut self, line: String) {
        self.bytes += bytes_in_page(&line);
        self.lines.push_back(line);
        while self.bytes > self.max_bytes {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= bytes_in_page(&oldest);
            self.left_out += 1;
        }
    }

    /// Returns the lines, oldest first. If lines were removed, the first line is a note with their number.
    pub fn into_lines(self) -> Vec<String> {
        let note = (self.left_out > 0).then(|| format!("… ({} earlier lines left out)", self.left_out));
        note.into_iter().chain(self.lines).collect()
    }
}

/// The size of a line in an HTML page, where some characters are written as `&#60;`.
fn bytes_in_page(line: &str) -> usize {
    const ESCAPED: &[u8] = b"<>&\"'";
    line.len() + 1 + 4 * line.bytes().filter(|byte| ESCAPED.contains(byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn characters_that_terminals_or_browsers_interpret_are_escaped() {
        assert_eq!(escape_line(b"\x1b[31mred\x1b]0;title\x07"), r"\u{1b}[31mred\u{1b}]0;title\u{7}");
        assert_eq!(escape_line("\u{61c}\u{200e}\u{200f}".as_bytes()), r"\u{61c}\u{200e}\u{200f}", "marks of direction");
        assert_eq!(escape_line("a\u{9b}2J\u{7f}\0\r\u{202e}b\u{2066}c\u{2028}".as_bytes()), {
            r"a\u{9b}2J\u{7f}\u{0}\u{d}\u{202e}b\u{2066}c\u{2028}"
        });
        assert_eq!(escape_line("tab\there, <b>, \u{5d0}, 👍🏽".as_bytes()), "tab\there, <b>, \u{5d0}, 👍🏽");
        assert_eq!(escape_line(b"a\xff\xc3"), "a\u{fffd}\u{fffd}");
        assert_eq!(to_one_line(" first\n\n  second\u{1b}\r\nthird\n"), r"first second\u{1b} third");
    }

    #[test]
    fn a_long_line_is_cut_and_notes_how_many_bytes() {
        let whole = "x".repeat(MAX_LINE);
        assert_eq!(escape_line(whole.as_bytes()), whole);
        let long = escape_line("x".repeat(10_000).as_bytes());
        assert_eq!(long, "x".repeat(MAX_LINE - MAX_NOTE) + "… (5952 bytes cut)");
        let escapes = escape_line("\u{1b}".repeat(MAX_LINE).as_bytes());
        assert!(escapes.len() <= MAX_LINE && escapes.ends_with(r"\u{1b}… (3422 bytes cut)"), "{escapes}");
    }

    #[test]
    fn an_endless_line_takes_bounded_memory() {
        let mut lines = Lines::default();
        for _ in 0..10_000 {
            assert!(lines.push(&[b'<'; 1000]).is_empty());
            assert!(lines.buffered.capacity() <= 2 * MAX_BUFFERED);
        }
        let shown = lines.push(b"\nnext\r\nlast").join("|");
        assert!(shown.len() < MAX_LINE + 10 && shown.ends_with("<… (9995952 bytes cut)|next"), "{shown}");
        assert_eq!(lines.finish().as_deref(), Some("last"));
        assert_eq!(lines.finish(), None);
    }

    #[test]
    fn a_tail_keeps_the_newest_lines_and_counts_the_others() {
        let mut tail = Tail::new(1000);
        for n in 0..1000 {
            tail.push(format!("<{n}>"));
        }
        let lines = tail.into_lines();
        assert_eq!(lines.last().map(String::as_str), Some("<999>"));
        assert_eq!(lines[0], format!("… ({} earlier lines left out)", 1000 - (lines.len() - 1)));
        assert!(
            lines.iter().map(|line| bytes_in_page(line)).sum::<usize>() <= 1000 && lines.len() > 50,
            "{}",
            lines.len()
        );
        let mut short = Tail::new(1000);
        short.push("one".to_owned());
        assert_eq!(short.into_lines(), ["one"]);
    }

    proptest! {
        #[test]
        fn an_escaped_line_is_safe_bounded_and_stable(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
            let escaped = escape_line(&bytes);
            prop_assert!(escaped.len() <= MAX_LINE && !escaped.chars().any(is_escaped));
            prop_assert_eq!(escape_line(escaped.as_bytes()), escaped);
        }

        #[test]
        fn lines_do_not_depend_on_how_the_input_was_split(
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
