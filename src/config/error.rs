//! The error of a setting: its cause, and the flag, variable or line where the setting was given.

use std::fmt;

use super::source::{Origin, Sources};

/// The error of a setting that is refused. Boxed, since every result of reading settings has room for one.
///
/// The text is the setting's origin, or else its key and value, and then the cause: `max-body: expected a size …`.
#[derive(Debug)]
pub struct ConfigError(Box<Details>);

#[derive(Debug)]
struct Details {
    /// The setting's key, or the path of a file that cannot be read.
    object: String,
    /// The setting's value, for a default, which has no origin that would show it.
    value: Option<String>,
    /// The place where the setting was given; `None` for a default, and before [`ConfigError::named_by`].
    origin: Option<Origin>,
    /// The cause: lower case, no full stop.
    cause: String,
}

impl ConfigError {
    /// An error of the setting with this key.
    pub(super) fn new(object: impl fmt::Display, cause: impl fmt::Display) -> Self {
        let (object, cause) = (object.to_string(), cause.to_string());
        Self(Box::new(Details { object, value: None, origin: None, cause }))
    }

    /// An error of the setting that was given at this place.
    pub fn at(origin: Origin, cause: impl fmt::Display) -> Self {
        let (object, cause) = (String::new(), cause.to_string());
        Self(Box::new(Details { object, value: None, origin: Some(origin), cause }))
    }

    /// The same error with the setting's value, for a message without an origin.
    #[must_use]
    pub(super) fn of(mut self, value: impl fmt::Display) -> Self {
        self.0.value = Some(value.to_string());
        self
    }

    /// The same error with the place where the setting was given, which an origin known before beats.
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
        let Details { object, value, origin, cause } = &*self.0;
        match (origin, value) {
            (Some(origin), _) => write!(f, "{origin}: {cause}"),
            (None, Some(value)) => write!(f, "{object}: {value}: {cause}"),
            (None, None) => write!(f, "{object}: {cause}"),
        }
    }
}

impl std::error::Error for ConfigError {}
