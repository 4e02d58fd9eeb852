//! The trait of a setting's value: it is parsed from text, and describes the text that it expects.

use std::str::FromStr;

/// A value of a setting.
pub trait Value: FromStr<Err = String> {
    /// What a value looks like, for messages that begin with "expected".
    const EXPECTED: &'static str;

    /// Whether the file may also write it as a bare number, `workers = 4`. A number where a path belongs is a mistake:
    /// `access-log = -1` would name a file.
    const NUMBER: bool = false;

    /// Whether `off` is a value.
    const CAN_BE_OFF: bool = false;

    /// The cause where a text is no such value.
    fn expected() -> String {
        format!("expected {}", Self::EXPECTED)
    }
}

/// [`Value::expected`].
pub(super) fn expected<T: Value>() -> String {
    T::expected()
}

/// The value of an option that can be off. A flag can then undo what the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrOff<T> {
    /// As if the option was not given, or its default not there.
    Off,
    /// This value.
    Set(T),
}

impl<T> OrOff<T> {
    /// The value, unless it is off.
    pub fn set(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::Set(value) => Some(value),
        }
    }
}

impl<T: Value> FromStr for OrOff<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text
                .parse()
                .map(Self::Set)
                .map_err(|cause| if cause == T::expected() { Self::expected() } else { cause }),
        }
    }
}

impl<T: Value> Value for OrOff<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    const NUMBER: bool = T::NUMBER;
    const CAN_BE_OFF: bool = true;

    fn expected() -> String {
        format!("{}, or off", T::expected())
    }
}
