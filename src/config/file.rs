//! `nibiru.toml`: where it is, how its values are read, and in which line each stands.

use std::path::Path;

use clap::ValueEnum;
use serde::Deserialize;
use serde::de::{self, Deserializer};
use toml::de::DeTable;

use super::error::ConfigError;
use super::options::Options;
use super::source::{Origin, Sources};
use super::suggest;
use super::value::Value;
use crate::log;

/// The file that is read where no `--config` names one and it exists.
pub const FILE: &str = "nibiru.toml";

/// How much of a key and its value a message shows.
const ENTRY_SHOWN: usize = 80;

impl Options {
    /// Reads a configuration file; `None` where `path` is `None` and there is no [`FILE`]. A relative path starts at
    /// `directory`; an empty one is the working directory.
    pub fn from_file(directory: &Path, path: Option<&Path>) -> Result<Option<(Self, Sources)>, ConfigError> {
        let (path, required) = path.map_or((Path::new(FILE), false), |path| (path, true));
        let path = &directory.join(path);
        match std::fs::read_to_string(path) {
            Ok(text) => read(path, &text).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => Ok(None),
            Err(error) => Err(ConfigError::new(path.display(), log::cause(&error))),
        }
    }
}

/// The settings in the text of a file, and where each stands.
pub(super) fn read(path: &Path, text: &str) -> Result<(Options, Sources), ConfigError> {
    let origin = |start: usize, entry: &str| {
        let first = entry.lines().next().unwrap_or_default();
        let shown: String = first.chars().take(ENTRY_SHOWN).collect();
        let more = if shown.len() < entry.len() { " …" } else { "" };
        Origin::File(path.to_owned(), line_of(text, start), format!("{shown}{more}"))
    };
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_of(text, error.span().map_or(0, |span| span.start));
        ConfigError::new(format_args!("{}:{line}", path.display()), error.message().trim_end())
    })?;
    let entries =
        table.get_ref().iter().map(|(key, value)| (key.span().start, value.span().end, key.get_ref()));
    let entries: Vec<(usize, usize, &str)> =
        entries.map(|(start, end, key)| (start, end.max(start), key.as_ref())).collect();
    let options = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        match entries.iter().find(|(start, end, _)| (*start..*end).contains(&at)) {
            Some((start, _, key)) if error.message().starts_with("unknown field") => {
                let meant = suggest::key(key).map(|meant| format!("; did you mean {meant}?"));
                ConfigError::at(origin(*start, key), format!("unknown key{}", meant.unwrap_or_default()))
            }
            Some((start, end, _)) => ConfigError::at(origin(*start, &text[*start..*end]), error.message()),
            None => ConfigError::new(path.display(), error.message()),
        }
    })?;
    let mut sources = Sources::default();
    for (start, end, key) in &entries {
        sources.insert(*key, origin(*start, &text[*start..*end]));
    }
    Ok((options, sources))
}

/// The line, counted from 1, in which a byte of the text stands.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// Lets the file write a value as text, and one that is a number as a number too: `workers = 4`, `max-body = "64M"`.
pub(super) fn from_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Value,
{
    match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => text.parse(),
        toml::Value::Integer(number) if T::NUMBER => number.to_string().parse(),
        _ if T::NUMBER => Err(T::expected()),
        _ => Err(format!("{}, in quotes", T::expected())),
    }
    .map(Some)
    .map_err(de::Error::custom)
}

/// Lets the file write a list of one as that one: `listen = "unix:app.sock"`.
pub(super) fn one_or_more<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Value,
{
    let values = match toml::Value::deserialize(deserializer)? {
        toml::Value::Array(values) => values,
        value => vec![value],
    };
    let parse = |value| match value {
        toml::Value::String(text) => text.parse().map_err(|cause| format!("{text:?}: {cause}")),
        _ => Err(format!("{}, in quotes, or a list of such", T::expected())),
    };
    values.into_iter().map(parse).collect::<Result<_, String>>().map_err(de::Error::custom)
}

/// [`one_or_more`], but that an empty list is refused: as one of addresses it would mean the default address.
pub(super) fn addresses<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Value,
{
    let values = one_or_more(deserializer)?;
    if values.is_empty() {
        return Err(de::Error::custom("the list is empty; leave the key out for the default"));
    }
    Ok(values)
}

/// Lets the file write one of a few words.
pub(super) fn one_of<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: ValueEnum,
{
    let known = match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => T::from_str(&text, false).ok(),
        _ => None,
    };
    let words = || T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    let words = || words().map(|word| format!("\"{}\"", word.get_name())).collect::<Vec<_>>().join(", ");
    known.map(Some).ok_or_else(|| de::Error::custom(format!("expected one of {}", words())))
}

/// Lets the file write a name or a path, in quotes.
pub(super) fn plain<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: From<String>,
{
    match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) if !text.is_empty() => Ok(Some(T::from(text))),
        _ => Err(de::Error::custom("expected a name or a path, in quotes")),
    }
}
