//! The trait of a setting's value, which is parsed from text and describes the text that it expects; and the value `off`.

use std::str::FromStr;

/// The type of a setting's value.
pub trait Value: FromStr<Err = String> {
    /// The description of a value, for messages that begin with "expected".
    const EXPECTED: &'static str;

    /// Whether the file may have a bare number, `workers = 4`. A number where a path belongs is a mistake: `access-log = -1` would
    /// name a file.
    const NUMBER: bool = false;

    /// Whether `off` is a value.
    const CAN_BE_OFF: bool = false;

    /// The cause of a text that is no such value.
    fn expected() -> String {
        format!("expected {}", Self::EXPECTED)
    }
}

/// [`Value::expected`], for `Result::map_err` and its kin.
pub(super) fn expected<T: Value>() -> String {
    T::expected()
}

/// The value of a setting that can be off, so that a flag can undo the file's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrOff<T> {
    /// The setting has no effect, whatever its default.
    Off,
    /// The setting has this value.
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
