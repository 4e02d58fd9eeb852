//! How a value is read from the file: as text, as a number, as one of a few words, or as a list of these.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Deserialize;
use serde::de::{self, Deserializer};

use super::values::{AccessLogQuery, Preload, QueueOrder, Sendfile, Switch, Value};
use crate::log;

/// A type whose values the file can have.
pub(super) trait FromFile: Sized {
    /// Whether `off` is a value.
    const CAN_BE_OFF: bool;

    /// The value as the file has it.
    ///
    /// # Errors
    /// The cause, which begins with "expected" where the value is of another kind.
    fn from_file(value: toml::Value) -> Result<Self, String>;

    /// An element of a list.
    ///
    /// # Errors
    /// The cause, as [`Self::from_file`] has it, with the element.
    fn from_list(value: toml::Value) -> Result<Self, String> {
        Self::from_file(value)
    }
}

/// Values are text in the file; a number may stand without quotes too: `workers = 4`, `max-body = "64M"`.
impl<T: Value> FromFile for T {
    const CAN_BE_OFF: bool = T::CAN_BE_OFF;

    fn from_file(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => text.parse(),
            toml::Value::Integer(number) if T::NUMBER => number.to_string().parse(),
            _ if T::NUMBER => Err(T::expected()),
            _ => Err(format!("{}, in quotes", T::expected())),
        }
    }

    fn from_list(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => text.parse().map_err(|cause| format!("{text:?}: {cause}")),
            _ => Err(format!("{}, in quotes, or a list of such", T::expected())),
        }
    }
}

/// A name or a path is written in quotes, and is never empty.
fn name<T: From<String>>(value: toml::Value) -> Result<T, String> {
    match value {
        toml::Value::String(text) if !text.is_empty() => Ok(T::from(text)),
        _ => Err("expected a name or a path, in quotes".to_owned()),
    }
}

impl FromFile for String {
    const CAN_BE_OFF: bool = false;

    fn from_file(value: toml::Value) -> Result<Self, String> {
        name(value)
    }
}

impl FromFile for PathBuf {
    const CAN_BE_OFF: bool = false;

    fn from_file(value: toml::Value) -> Result<Self, String> {
        name(value)
    }
}

/// One of a few words is written in quotes.
fn word<T: ValueEnum>(value: toml::Value) -> Result<T, String> {
    let known = match value {
        toml::Value::String(text) => T::from_str(&text, false).ok(),
        _ => None,
    };
    let words = || T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    let words = || words().map(|word| format!("\"{}\"", word.get_name())).collect::<Vec<_>>().join(", ");
    known.ok_or_else(|| format!("expected one of {}", words()))
}

/// [`FromFile`] of types with a few words, and whether `off` is among these.
macro_rules! words {
    ($($type:ty: $can_be_off:literal),+ $(,)?) => {$(
        impl FromFile for $type {
            const CAN_BE_OFF: bool = $can_be_off;

            fn from_file(value: toml::Value) -> Result<Self, String> {
                word(value)
            }
        }
    )+};
}

words! {
    QueueOrder: false,
    Sendfile: true,
    Switch: true,
    AccessLogQuery: true,
    Preload: true,
    log::Format: false,
    log::Level: false,
}

/// Reads a setting with one value.
pub(super) fn value<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromFile,
{
    T::from_file(toml::Value::deserialize(deserializer)?).map(Some).map_err(de::Error::custom)
}

/// Reads a setting with a list of values; a list of one may be written as that one: `listen = "unix:app.sock"`.
pub(super) fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromFile,
{
    let values = match toml::Value::deserialize(deserializer)? {
        toml::Value::Array(values) => values,
        value => vec![value],
    };
    // No value is `off` where that is allowed, and the default elsewhere.
    if values.is_empty() && !T::CAN_BE_OFF {
        return Err(de::Error::custom("the list is empty; leave the key out for the default"));
    }
    values.into_iter().map(T::from_list).collect::<Result<_, String>>().map_err(de::Error::custom)
}

/// A fixed default, written in the table of settings as in the file.
pub(super) fn fixed_default<T: FromFile>(text: &str) -> T {
    T::from_file(toml::Value::String(text.to_owned())).expect("a test reads every fixed default")
}
