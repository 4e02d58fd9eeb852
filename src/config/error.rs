//! What is wrong with a setting.

use std::fmt;

/// A setting that does not do: the object, then the cause.
#[derive(Debug)]
pub struct ConfigError {
    object: String,
    cause: String,
}

impl ConfigError {
    pub(super) fn new(object: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Self { object: object.to_string(), cause: cause.to_string() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.cause)
    }
}

impl std::error::Error for ConfigError {}
