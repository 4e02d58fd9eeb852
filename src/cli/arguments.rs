//! The origin of each value on a command line: a flag or a variable. clap reads both, and its errors do not tell which.
//!
//! Called by [`super::Cli::read`]. Reads the environment, and never changes it.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use crate::config::{ConfigError, Origin, Sources};

/// The reason for which a command line names no command to run.
#[derive(Debug)]
pub enum Error {
    /// The value of a flag, an argument or a variable is refused.
    Value(ConfigError),
    /// The usage is wrong, or the command line asks for help or the version.
    Usage(clap::Error),
}

impl From<clap::Error> for Error {
    fn from(error: clap::Error) -> Self {
        Self::Usage(error)
    }
}

/// Refuses a variable that is set but empty, which a script has mostly failed to fill in.
///
/// # Errors
/// The first such variable, by name.
pub(super) fn no_variable_is_empty(command: &Command) -> Result<(), Error> {
    let names = command.get_arguments().filter_map(Arg::get_env);
    let empty = names.filter(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()));
    let Some(name) = empty.min() else { return Ok(()) };
    let origin = Origin::Variable(name.to_string_lossy().into_owned(), String::new());
    Err(Error::Value(ConfigError::at(origin, "set but empty; unset it, or give it a value")))
}

/// The error about a value, with the value's origin. `None` for errors that are not about a value.
pub(super) fn explain(error: &clap::Error, command: &Command, arguments: &[OsString]) -> Option<ConfigError> {
    match error.kind() {
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {}
        ErrorKind::InvalidUtf8 => return no_text(command, arguments),
        _ => return None,
    }
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (shown, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
    let argument = command.get_arguments().find(|argument| argument.to_string() == shown)?;
    let cause = match (std::error::Error::source(error), error.get(ContextKind::ValidValue)) {
        (Some(cause), _) => cause.to_string(),
        (None, Some(ContextValue::Strings(valid))) if !valid.is_empty() => {
            format!("expected one of {}", valid.join(", "))
        }
        _ => "a value is missing".to_owned(),
    };
    let origin = match argument.get_env() {
        // clap looks at a variable only where the flag is not on the command line.
        Some(name) if !is_given(argument, arguments) => {
            // The whole of a list, which is the text that a unit or a script has.
            let whole = std::env::var_os(name).unwrap_or_else(|| value.into());
            Origin::Variable(name.to_string_lossy().into_owned(), whole.to_string_lossy().into_owned())
        }
        _ => Origin::Flag(flag(argument), value.to_owned()),
    };
    Some(ConfigError::at(origin, cause))
}

/// The error about the variable whose value is not UTF-8. clap says that there is one, and not which.
fn no_text(command: &Command, arguments: &[OsString]) -> Option<ConfigError> {
    let given = command.get_arguments().filter(|argument| !is_given(argument, arguments));
    let values =
        given.filter_map(|argument| Some((argument.get_env()?, std::env::var_os(argument.get_env()?)?)));
    let (name, value) = values.into_iter().find(|(_, value)| value.to_str().is_none())?;
    let (name, value) = (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned());
    Some(ConfigError::at(Origin::Variable(name, value), "expected text in UTF-8"))
}

/// Whether the flag is on the command line.
fn is_given(argument: &Arg, arguments: &[OsString]) -> bool {
    let Some(long) = argument.get_long() else { return false };
    let flags = arguments.iter().take_while(|argument| *argument != "--");
    flags
        .filter_map(|argument| argument.to_str()?.strip_prefix("--"))
        .any(|given| given.split_once('=').map_or(given, |(name, _)| name) == long)
}

/// The origins of the settings of a command.
pub(super) fn sources(command: &Command, matches: &ArgMatches) -> Sources {
    let mut sources = Sources::default();
    // clap panics where it is asked for an argument that the command does not have.
    let source = |id: &str| matches.try_contains_id(id).ok().and_then(|_| matches.value_source(id));
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        let key = argument.get_long().unwrap_or(id);
        let raw = matches.try_get_raw(id).ok().flatten().into_iter().flatten();
        let value = raw.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(",");
        let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
        let origin = match (source(id), variable) {
            (Some(ValueSource::CommandLine), _) => Origin::Flag(flag(argument), value),
            (Some(ValueSource::EnvVariable), Some(name)) => Origin::Variable(name, value),
            _ => continue,
        };
        sources.insert(key, origin);
    }
    sources
}

/// The flag as it is written, or else the name of the argument in the help.
fn flag(argument: &Arg) -> String {
    let called = || argument.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    argument.get_long().map(|long| format!("--{long}")).or_else(called).unwrap_or_default()
}
