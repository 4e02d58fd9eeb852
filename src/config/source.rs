//! Where a setting was given, so that a message can name it: a flag, a variable, or a line of the file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Where a setting was given, and what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On the command line: the flag (or the name of the argument), and its value.
    Flag(String, String),
    /// In a variable of the environment: its name and value.
    Variable(String, String),
    /// In the configuration file: its path, the line, counted from 1, and the key with its value.
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

/// Where each setting was given, by its key in the file (which is its flag's name).
#[derive(Clone, Debug, Default)]
pub struct Sources(BTreeMap<String, Origin>);

impl Sources {
    /// Notes where a setting was given.
    pub fn insert(&mut self, key: impl Into<String>, origin: Origin) {
        self.0.insert(key.into(), origin);
    }

    /// Where a setting was given; `None` for a default.
    pub fn get(&self, key: &str) -> Option<&Origin> {
        self.0.get(key)
    }

    /// Takes from `below` what is not given here, as [`super::Options::or`] does with the values.
    #[must_use]
    pub fn or(mut self, below: Self) -> Self {
        for (key, origin) in below.0 {
            self.0.entry(key).or_insert(origin);
        }
        self
    }
}
