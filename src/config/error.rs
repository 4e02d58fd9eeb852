//! The error of a setting: its cause, and the place where it was given.

use std::fmt;

use super::source::{Origin, Sources};

/// A setting is refused: its name or place, then the cause. Boxed, since every result of reading settings has room for it.
#[derive(Debug)]
pub struct ConfigError(Box<Wrong>);

#[derive(Debug)]
struct Wrong {
    /// The setting's key; of a file that cannot be read, its path.
    object: String,
    /// The setting's value, where the origin does not show it: a default has none.
    value: Option<String>,
    /// Where the setting was given, as far as that is known.
    origin: Option<Origin>,
    cause: String,
}

impl ConfigError {
    pub(super) fn new(object: impl fmt::Display, cause: impl fmt::Display) -> Self {
        let (object, cause) = (object.to_string(), cause.to_string());
        Self(Box::new(Wrong { object, value: None, origin: None, cause }))
    }

    /// Of a setting that was given there.
    pub fn at(origin: Origin, cause: impl fmt::Display) -> Self {
        let (object, cause) = (String::new(), cause.to_string());
        Self(Box::new(Wrong { object, value: None, origin: Some(origin), cause }))
    }

    /// The same, with the value, which may be a default.
    #[must_use]
    pub(super) fn of(mut self, value: impl fmt::Display) -> Self {
        self.0.value = Some(value.to_string());
        self
    }

    /// The same, with the place where the setting was given.
    #[must_use]
    pub fn named_by(mut self, sources: &Sources) -> Self {
        if self.0.origin.is_none() {
            self.0.origin = sources.get(&self.0.object).cloned();
        }
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wrong { object, value, origin, cause } = &*self.0;
        match (origin, value) {
            (Some(origin), _) => write!(f, "{origin}: {cause}"),
            (None, Some(value)) => write!(f, "{object}: {value}: {cause}"),
            (None, None) => write!(f, "{object}: {cause}"),
        }
    }
}

impl std::error::Error for ConfigError {}
