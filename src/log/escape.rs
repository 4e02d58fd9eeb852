//! Escaping of text from clients, applications and operators for logs, terminals, the status and error pages.
//!
//! Control characters (C0, DEL, U+0080–9F), bytes that are not UTF-8, and characters that reorder or break lines in some
//! viewers (U+2028, U+2029, the bidirectional overrides and isolates) become `\xNN`, one group for each byte, as in nginx's
//! logs. Escaping is idempotent. [`super::redact`] removes secrets before.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Longest [`Word`], in bytes. nginx accepts request lines of 8 KiB, but thousands of lines may wait for a blocked log, and the
/// front of a line is enough to tell requests apart.
const MAX_WORD: usize = 4096;

/// Escapes text of several lines, such as a traceback. Line ends and tabs stay; a carriage return before a line end is dropped.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    escape(bytes, |character| matches!(character, '\n' | '\t'))
}

/// Text that [`text`] escapes when it is formatted, so that a line below the log level costs nothing.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a>(pub &'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text(self.0))
    }
}

/// Escapes text of one line. Tabs stay, line ends are escaped.
pub fn line(bytes: &[u8]) -> Cow<'_, str> {
    escape(bytes, |character| character == '\t')
}

/// Escapes JSON. Hostile characters become `\uNNNN`, so that the strings keep their values; outside of its strings JSON has no
/// such characters but line ends.
pub fn json(json: &str) -> Cow<'_, str> {
    let unsafe_in_json = |character: char| is_hostile(character) && !matches!(character, '\n' | '\r' | '\t');
    if !json.chars().any(unsafe_in_json) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if unsafe_in_json(character) {
            // No hostile character is beyond U+FFFF. Writing to a string cannot fail.
            let _ = write!(escaped, "\\u{:04x}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Escapes text of several lines for HTML, including quoted attributes.
pub fn html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in self::text(text.as_bytes()).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Cuts text to at most `longest` bytes, the mark `…` included.
pub fn cut(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let mark = "…";
    let mut end = longest.saturating_sub(mark.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{mark}", &text[..end])
}

/// The front of a text, at most `longest` bytes, ending at a character boundary. Limits the bytes that are escaped to those
/// that are shown.
pub fn front(bytes: &[u8], longest: usize) -> &[u8] {
    let Some(front) = bytes.get(..longest) else { return bytes };
    // The longest incomplete character has three bytes.
    let begun = front.iter().rev().take(3).position(|byte| *byte >= 0xC0).map_or(0, |at| at + 1);
    let tail = begun.max(1).min(front.len());
    let whole = front.len() - unfinished(&front[front.len() - tail..]);
    &front[..whole]
}

/// A quoted value on a log line. Quotes, backslashes and line ends get a backslash, as in JSON; existing escapes (`\xNN`) stay.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        let mut bytes = [0; 4];
        for (at, character) in self.0.char_indices() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' if is_escape(&self.0.as_bytes()[at..]) => f.write_char('\\')?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                hostile if is_hostile(hostile) => write_bytes(f, hostile.encode_utf8(&mut bytes).as_bytes())?,
                other => f.write_char(other)?,
            }
        }
        f.write_char('"')
    }
}

/// A word on a log line. Printable ASCII but quotes and backslashes stays; all other bytes, spaces too, become `\xNN`, so that
/// a request line has three words. Cut after [`MAX_WORD`] bytes.
#[derive(Clone, Copy, Debug)]
pub struct Word<'a>(pub &'a [u8]);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.get(..MAX_WORD).unwrap_or(self.0);
        while !rest.is_empty() {
            let harmless = |byte: &u8| byte.is_ascii_graphic() && !b"\"\\".contains(byte);
            let plain = rest.iter().position(|byte| !harmless(byte)).unwrap_or(rest.len());
            f.write_str(str::from_utf8(&rest[..plain]).unwrap_or_default())?;
            let Some(byte) = rest.get(plain) else { break };
            write_bytes(f, &[*byte])?;
            rest = &rest[plain + 1..];
        }
        if self.0.len() > MAX_WORD { f.write_str("...") } else { Ok(()) }
    }
}

/// An escaper for text that arrives in pieces, such as a stream to a terminal. A character or a line end that is cut in two, at
/// most three bytes, is held back until the rest arrives.
#[derive(Debug, Default)]
pub struct TextStream {
    held: Vec<u8>,
}

impl TextStream {
    /// The escaped text of this piece, after the bytes held back from the previous one.
    pub fn piece(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let whole = self.held.len() - unfinished(&self.held);
        let text = text(&self.held[..whole]).into_owned();
        self.held.drain(..whole);
        text
    }

    /// The escaped text of the bytes still held back. No more pieces follow.
    pub fn end(&mut self) -> String {
        text(&std::mem::take(&mut self.held)).into_owned()
    }
}

/// The number of bytes at the end of a piece that may begin a character or a line end, up to 3.
pub fn unfinished(bytes: &[u8]) -> usize {
    if bytes.ends_with(b"\r") {
        return 1;
    }
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    // The last invalid chunk begins a character only where it is a valid prefix and reaches the end.
    let begins = |tail: &[u8]| {
        let Some(first) = tail.first() else { return false };
        let length = match first {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => return false,
        };
        tail.len() < length
    };
    if bytes.ends_with(last) && begins(last) { last.len() } else { 0 }
}

fn escape(bytes: &[u8], keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    // Every hostile character begins with one of these bytes, so most text is scanned by bytes alone.
    let suspicious = |byte: &u8| matches!(byte, 0..0x20 | 0x7F | 0xC2 | 0xE2) && !keep(char::from(*byte));
    if let Ok(text) = str::from_utf8(bytes)
        && (!bytes.iter().any(suspicious)
            || !text.chars().any(|character| is_hostile(character) && !keep(character)))
    {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(bytes.len() + 16);
    let mut buffer = [0; 4];
    for chunk in bytes.utf8_chunks() {
        let mut characters = chunk.valid().chars().peekable();
        while let Some(character) = characters.next() {
            if !is_hostile(character) || keep(character) {
                escaped.push(character);
            } else if character == '\r' && keep('\n') && characters.peek() == Some(&'\n') {
                // The line end that follows covers both.
            } else {
                // Writing to a string cannot fail.
                let _ = write_bytes(&mut escaped, character.encode_utf8(&mut buffer).as_bytes());
            }
        }
        let _ = write_bytes(&mut escaped, chunk.invalid());
    }
    Cow::Owned(escaped)
}

/// Whether text begins with a byte that [`write_bytes`] has written.
fn is_escape(text: &[u8]) -> bool {
    let hexadecimal = |byte: &u8| matches!(byte, b'0'..=b'9' | b'A'..=b'F');
    matches!(text, [b'\\', b'x', high, low, ..] if hexadecimal(high) && hexadecimal(low))
}

fn write_bytes(to: &mut impl Write, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(to, "\\x{byte:02X}"))
}

/// Whether a terminal or a viewer acts on the character instead of showing it. Marks of direction (U+200E, U+200F) do not
/// count: Arabic and Hebrew text has them, and they do not reorder the text around them.
fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hostile bytes of each kind, and their escaped form.
    const HOSTILE: &[(&[u8], &str)] = &[
        (b"\x00", r"\x00"),
        (b"\x1b[2J", r"\x1B[2J"),
        (b"\x07\x08", r"\x07\x08"),
        (b"a\rb", r"a\x0Db"),
        (b"\x7f", r"\x7F"),
        ("\u{9b}2J".as_bytes(), r"\xC2\x9B2J"),
        ("\u{85}".as_bytes(), r"\xC2\x85"),
        ("\u{2028}\u{2029}".as_bytes(), r"\xE2\x80\xA8\xE2\x80\xA9"),
        ("\u{202e}evil\u{2066}".as_bytes(), r"\xE2\x80\xAEevil\xE2\x81\xA6"),
        (b"\x9b", r"\x9B"),
        (b"a\xffb\xc3", r"a\xFFb\xC3"),
        (b"\xed\xa0\x80", r"\xED\xA0\x80"),
    ];

    #[test]
    fn hostile_bytes_are_shown_and_all_else_stays() {
        for (bytes, shown) in HOSTILE {
            assert_eq!(text(bytes), *shown);
            assert_eq!(line(bytes), *shown);
            assert_eq!(text(text(bytes).as_bytes()), *shown, "a second time");
        }
        let harmless = "é 漢 \u{1F600} \u{200f}שלום\u{200e} \\x1B \\ \" \u{a0}";
        assert!(matches!(text(harmless.as_bytes()), Cow::Borrowed(text) if text == harmless));
        assert_eq!(text(b"one\r\n\ttwo\n"), "one\n\ttwo\n");
        assert_eq!(line(b"one\r\n\ttwo\n"), "one\\x0D\\x0A\ttwo\\x0A");
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let text = "\u{7f}\u{9b}\u{202e}\u{2028}é\u{1b}";
        let plain = serde_json::to_string_pretty(&serde_json::json!({ "a": text })).unwrap();
        let safe = json(&plain);
        assert_eq!(safe, "{\n  \"a\": \"\\u007f\\u009b\\u202e\\u2028é\\u001b\"\n}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap()["a"], text);
    }

    #[test]
    fn html_has_neither_markup_nor_hostile_characters() {
        assert_eq!(html("<a b=\"'\">&\u{202e}\n"), "&lt;a b=&quot;&#39;&quot;&gt;&amp;\\xE2\\x80\\xAE\n");
    }

    #[test]
    fn a_quoted_value_cannot_close_its_quotes() {
        assert_eq!(Quoted("a\" b=1\\\n\u{1b}é\u{9b}").to_string(), r#""a\" b=1\\\n\x1Bé\xC2\x9B""#);
    }

    #[test]
    fn a_quoted_value_is_escaped_once() {
        for (bytes, shown) in HOSTILE {
            assert_eq!(Quoted(&text(bytes)).to_string(), format!("\"{shown}\""));
        }
        assert_eq!(Quoted(r"C:\xa\x4").to_string(), r#""C:\\xa\\x4""#, "no escape of ours");
    }

    #[test]
    fn the_front_of_a_text_ends_at_a_character_boundary() {
        let whole = "é漢\u{1F600}x";
        for longest in 0..=whole.len() + 1 {
            let front = str::from_utf8(front(whole.as_bytes(), longest)).unwrap();
            assert!(whole.starts_with(front) && front.len() <= longest);
            assert!(front.len() + 4 > longest.min(whole.len()), "{longest}");
        }
        for bytes in [&b"\x80\x80\x80\x80\x80"[..], b"\xff\xff\xff\xff\xff", b"\xc3\xc3\xc3\xc3\xc3"] {
            assert!((1..=4).contains(&front(bytes, 4).len()), "{bytes:?}");
        }
        assert_eq!(front(b"a\r\n", 2), b"a", "nor within a line end");
    }

    #[test]
    fn a_word_has_no_spaces_and_is_cut() {
        let word = b"/a b\"\\\r\n\x00\x1b[2J\x7f\xc3\xa9";
        assert_eq!(Word(word).to_string(), r"/a\x20b\x22\x5C\x0D\x0A\x00\x1B[2J\x7F\xC3\xA9");
        assert_eq!(Word(&[b'/'; 100_000]).to_string().len(), MAX_WORD + "...".len());
    }

    #[test]
    fn a_stream_in_pieces_is_escaped_as_a_whole() {
        let mut whole = "é漢\u{1F600}\r\nx\ry\u{9b}\n".as_bytes().to_vec();
        HOSTILE.iter().for_each(|(bytes, _)| whole.extend_from_slice(bytes));
        whole.extend_from_slice(b"end\r");
        for size in 1..whole.len() {
            let mut stream = TextStream::default();
            let mut shown = String::new();
            for piece in whole.chunks(size) {
                shown += &stream.piece(piece);
                assert!(stream.held.len() <= 3);
            }
            assert_eq!(shown + &stream.end(), text(&whole), "pieces of {size}");
        }
    }
}
