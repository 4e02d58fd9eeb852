//! The mode and the owner of a Unix socket's file.

use std::fmt;
use std::io;
use std::str::FromStr;

use super::value::{Value, expected};
use crate::log;
use crate::os::users;

/// The permission bits of a socket file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(pub u32);

impl FromStr for SocketMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mode = u32::from_str_radix(text.trim_start_matches("0o"), 8)
            .ok()
            .filter(|mode| *mode <= 0o777)
            .ok_or_else(expected::<Self>)?;
        if mode & 0o002 != 0 {
            return Err(
                "a world-writable socket lets every user of the machine send requests as any client; \
                        use 0660 and a group that the proxy is in"
                    .to_owned(),
            );
        }
        if mode & 0o220 == 0 {
            return Err("nobody could connect, which needs write permission; use 0660".to_owned());
        }
        Ok(Self(mode))
    }
}

// A bare number is refused: TOML's 0o660 arrives as 432.
impl Value for SocketMode {
    const EXPECTED: &'static str = "an octal mode such as 0660";
}

/// The owner of a socket file: `USER`, `USER:GROUP` or `:GROUP`, as names or numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOwner {
    /// The file's user id; `None` leaves the process's.
    pub user: Option<u32>,
    /// The file's group id, whose members may connect under mode 0660; `None` leaves the process's.
    pub group: Option<u32>,
}

impl FromStr for SocketOwner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        if user.is_empty() && group.is_empty() {
            return Err(expected::<Self>());
        }
        Ok(Self {
            user: number_of("user", user, users::user)?,
            group: number_of("group", group, users::group)?,
        })
    }
}

/// `USER:GROUP`, by name where there is one.
impl fmt::Display for SocketOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |number: Option<u32>, name: fn(u32) -> Option<String>| match number {
            Some(number) => name(number).unwrap_or_else(|| number.to_string()),
            None => String::new(),
        };
        write!(f, "{}:{}", part(self.user, users::user_name), part(self.group, users::group_name))
    }
}

impl Value for SocketOwner {
    const EXPECTED: &'static str = "USER, USER:GROUP or :GROUP";
}

/// The number of a user or a group that is given by name or by number; `look_up` finds a name. `None` for an empty name.
fn number_of(
    kind: &str,
    name: &str,
    look_up: fn(&str) -> io::Result<Option<u32>>,
) -> Result<Option<u32>, String> {
    if name.is_empty() {
        return Ok(None);
    }
    if let Ok(number) = name.parse() {
        return Ok(Some(number));
    }
    match look_up(name) {
        Ok(Some(number)) => Ok(Some(number)),
        Ok(None) => Err(format!("{name}: no such {kind}")),
        Err(error) => Err(format!("{name}: cannot look the {kind} up: {}", log::cause(&error))),
    }
}
