//! The origin of a setting, for messages: a flag, a variable, or a line of the file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The place where a setting was given, with the text that was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line: the flag (or the name of the argument), and its value.
    Flag(String, String),
    /// The environment: the variable's name and value.
    Variable(String, String),
    /// The configuration file: its path, the line, counted from 1, and the key with its value.
    File(PathBuf, usize, String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag, value) if value.is_empty() => write!(f, "{flag} \"\""),
            Self::Flag(flag, value) => write!(f, "{flag} {}", value.escape_debug()),
            Self::Variable(name, value) => write!(f, "{name}=\"{}\" (environment)", value.escape_debug()),
            Self::File(path, line, entry) => write!(f, "{}:{line}: {entry}", path.display()),
        }
    }
}

/// The origins of settings, by key. A setting without an origin has its default.
#[derive(Clone, Debug, Default)]
pub struct Sources(BTreeMap<String, Origin>);

impl Sources {
    /// Adds the origin of the setting with this key.
    pub fn insert(&mut self, key: impl Into<String>, origin: Origin) {
        self.0.insert(key.into(), origin);
    }

    /// The origin of a setting; `None` for a default.
    pub fn get(&self, key: &str) -> Option<&Origin> {
        self.0.get(key)
    }

    /// Takes from `below` the origins of settings that are not given here, as [`super::Options::or`] does with the values.
    #[must_use]
    pub fn or(mut self, below: Self) -> Self {
        for (key, origin) in below.0 {
            self.0.entry(key).or_insert(origin);
        }
        self
    }
}
