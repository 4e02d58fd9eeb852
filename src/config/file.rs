//! `nibiru.toml`: where it is, and how its values are read.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{self, Deserializer};

use super::error::ConfigError;
use super::options::Options;
use crate::log;

/// The file that is read where no `--config` names one and it exists.
pub const FILE: &str = "nibiru.toml";

impl Options {
    /// Reads a configuration file; `None` where `path` is `None` and there is no [`FILE`].
    pub fn from_file(path: Option<&Path>) -> Result<Option<Self>, ConfigError> {
        let (path, required) = path.map_or((Path::new(FILE), false), |path| (path, true));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => return Ok(None),
            Err(error) => return Err(ConfigError::new(path.display(), log::cause(&error))),
        };
        toml::from_str(&text)
            .map(Some)
            .map_err(|error| ConfigError::new(path.display(), error.to_string().trim_end()))
    }
}

/// Lets the file write a value as text or as a number: `workers = 4`, `max-body = "64M"`.
pub(super) fn from_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    Scalar::deserialize(deserializer)?.to_string().parse().map(Some).map_err(de::Error::custom)
}

/// Lets the file write a list of one as that one: `listen = "unix:app.sock"`.
pub(super) fn one_or_more<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    let texts = match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(text) => vec![text],
        OneOrMore::More(texts) => texts,
    };
    texts.iter().map(|text| text.parse().map_err(de::Error::custom)).collect()
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(i64),
    Text(String),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}
