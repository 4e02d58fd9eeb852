//! The fields of an application's log line (`nibiru.log.warn(message, { key = value })`), from its worker to the log: one JSON
//! object of plain values.
//!
//! [`encode`] runs in the worker and bounds the fields; [`decode`] runs in the log's formatter, which trusts no worker.

use std::fmt;

use serde_json::{Map, Value};

use super::escape;

/// Most fields of one line. More are data, and belong in a file of the application's own.
const MAX_FIELDS: usize = 32;

/// Longest key, in bytes.
const MAX_KEY: usize = 64;

/// Longest text value, in bytes.
const MAX_TEXT: usize = 4096;

/// Longest JSON object of fields, in bytes. With the message, the object fits a packet twice.
pub const MAX_LENGTH: usize = 32 * 1024;

/// Name of the field that counts the fields left out.
const LEFT_OUT: &str = "fields_left_out";

/// Prefix of an application's field that has the name of a server's own field, as in logrus.
const PREFIX: &str = "fields.";
const RESERVED: &[&str] = &[
    "time", "level", "process", "message", "worker", "gen", "pid", "request", "trace_id", "part", "left_out",
    LEFT_OUT,
];

/// Makes the key of a field: escaped and cut to [`MAX_KEY`].
pub fn key(bytes: &[u8]) -> String {
    escape::cut(&escape::line(escape::front(bytes, enough_for(MAX_KEY))), MAX_KEY)
}

/// Makes the text value of a field: escaped and cut to [`MAX_TEXT`].
pub fn text(bytes: &[u8]) -> Value {
    escape::cut(&escape::text(escape::front(bytes, enough_for(MAX_TEXT))), MAX_TEXT).into()
}

/// The number of bytes to escape for a text of which `shown` bytes are shown. Escaping shortens only line ends, by half.
fn enough_for(shown: usize) -> usize {
    2 * shown + 8
}

/// Encodes fields as JSON, sorted by key. Keys come from [`key`], text values from [`text`]. Fields beyond the bounds are left
/// out and counted. The result is empty where there are no fields.
pub fn encode(mut fields: Vec<(String, Value)>) -> String {
    if fields.is_empty() {
        return String::new();
    }
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    let (mut object, mut length, mut left_out) = (Map::new(), 2, 0_u64);
    for (key, value) in fields {
        // Quotes, colon and comma included; backslashes and quotes are counted as JSON escapes them.
        let taken = Value::from(key.as_str()).to_string().len() + value.to_string().len() + 2;
        if object.len() == MAX_FIELDS || length + taken > MAX_LENGTH - 64 {
            left_out += 1;
            continue;
        }
        length += taken;
        object.insert(key, value);
    }
    if left_out > 0 {
        object.insert(LEFT_OUT.to_owned(), left_out.into());
    }
    Value::Object(object).to_string()
}

/// Decodes fields for the log. Names of the server's own fields get the prefix, and nested values become text. Input that is
/// not a JSON object becomes one text field.
pub fn decode(json: &str) -> Map<String, Value> {
    let mut fields = Map::new();
    match serde_json::from_str(json) {
        _ if json.is_empty() => {}
        Ok(Value::Object(object)) => {
            for (key, value) in object.into_iter().take(MAX_FIELDS + 1) {
                let ours = RESERVED.contains(&key.as_str()) && key != LEFT_OUT;
                let key = if ours { format!("{PREFIX}{key}") } else { key };
                let plain = !value.is_array() && !value.is_object();
                fields.insert(key, if plain { value } else { value.to_string().into() });
            }
        }
        Ok(_) | Err(_) => drop(fields.insert("fields".to_owned(), json.into())),
    }
    fields
}

/// Writes fields in the log's text format: ` key=value` each.
pub fn write(to: &mut impl fmt::Write, fields: &Map<String, Value>) -> fmt::Result {
    fields.iter().try_for_each(|(name, value)| {
        to.write_char(' ')?;
        // A name with a space or a quote would look like several fields.
        let word = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        match name.bytes().all(word) && !name.is_empty() {
            true => to.write_str(name)?,
            false => write!(to, "{}", escape::Quoted(name))?,
        }
        match value {
            Value::String(text) => write!(to, "={}", escape::Quoted(text)),
            plain => write!(to, "={plain}"),
        }
    })
}

/// A message followed by its fields, for output without a log that keeps the two apart.
pub fn after(message: &[u8], fields: &str) -> String {
    let mut text = escape::text(message).into_owned();
    // Writing to a string cannot fail.
    let _ = write(&mut text, &decode(fields));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn through(fields: Value) -> Value {
        let Value::Object(object) = fields else { panic!("an object") };
        let escaped = object.into_iter().map(|(key, value)| match value {
            Value::String(text) => (self::key(key.as_bytes()), self::text(text.as_bytes())),
            plain => (self::key(key.as_bytes()), plain),
        });
        let json = encode(escaped.collect());
        assert!(json.len() <= MAX_LENGTH, "{}", json.len());
        Value::Object(decode(&json))
    }

    #[test]
    fn plain_values_keep_their_types_and_reserved_names_get_a_prefix() {
        let fields = json!({ "b": 1, "a": 1.5, "c": true, "d": "e\u{1b}\n", "k\n": "" });
        assert_eq!(through(fields), json!({ "a": 1.5, "b": 1, "c": true, "d": "e\\x1B\n", "k\\x0A": "" }));
        for name in RESERVED.iter().filter(|name| **name != LEFT_OUT) {
            assert_eq!(through(json!({ *name: "x" })), json!({ format!("fields.{name}"): "x" }));
        }
        assert_eq!(encode(Vec::new()), "");
        assert!(decode("").is_empty());
    }

    #[test]
    fn fields_are_bounded_in_number_and_size() {
        let many: Map<String, Value> =
            (0..100).map(|number| (format!("k{number:02}"), number.into())).collect();
        let shown = through(Value::Object(many));
        assert_eq!(shown.as_object().unwrap().len(), MAX_FIELDS + 1);
        assert_eq!((&shown["k31"], &shown["fields_left_out"]), (&json!(31), &json!(68)));

        let large = json!({ "k".repeat(100): "é".repeat(100_000) });
        let shown = through(large);
        let (key, value) = shown.as_object().unwrap().iter().next().unwrap();
        assert!(key.len() <= MAX_KEY && key.ends_with('…'), "{key}");
        assert!(value.as_str().unwrap().len() <= MAX_TEXT && value.as_str().unwrap().ends_with("é…"));

        let huge: Map<String, Value> = (0..30).map(|n| (n.to_string(), "\"".repeat(5000).into())).collect();
        assert_eq!(through(Value::Object(huge))["fields_left_out"], 27);
    }

    #[test]
    fn a_text_is_cut_before_it_is_escaped_and_ends_with_a_mark() {
        for piece in ["x", "é", "漢", "\r\n", "\u{1b}", "\u{202e}"] {
            for bytes in [piece.repeat(MAX_TEXT), piece.repeat(1 << 24)] {
                let cut = text(bytes.as_bytes());
                let cut = cut.as_str().unwrap();
                assert!(cut.len() <= MAX_TEXT && cut.len() > MAX_TEXT - 8, "{piece:?}: {}", cut.len());
                assert!(cut.ends_with('…') || cut == escape::text(bytes.as_bytes()), "{piece:?}");
            }
        }
        assert_eq!(text(b"a\xff\x1b"), json!("a\\xFF\\x1B"));
    }

    #[test]
    fn invalid_fields_of_a_worker_are_shown_as_text() {
        assert_eq!(
            Value::Object(decode("{\"a\":[1],\"b\":{\"c\":2}}")),
            json!({ "a": "[1]", "b": "{\"c\":2}" })
        );
        assert_eq!(Value::Object(decode("[1]")), json!({ "fields": "[1]" }));
        assert_eq!(Value::Object(decode("{\"a\"")), json!({ "fields": "{\"a\"" }));
        let nested = "[".repeat(10_000);
        assert_eq!(Value::Object(decode(&nested)), json!({ "fields": nested }));
    }
}
