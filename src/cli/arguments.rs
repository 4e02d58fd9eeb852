//! Where the values on a command line came from: a flag or a variable. clap reads both, and its errors do not tell.
//!
//! Called by [`crate::cli`]. Reads the environment, never changes anything.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use crate::config::{ConfigError, Origin, Sources};

/// The command line names no command to run, and why.
#[derive(Debug)]
pub enum Error {
    /// The value of a flag, an argument or a variable is refused.
    Value(ConfigError),
    /// Help or the version was asked for, or the usage is wrong.
    Usage(clap::Error),
}

impl From<clap::Error> for Error {
    fn from(error: clap::Error) -> Self {
        Self::Usage(error)
    }
}

/// Refuses a variable that is set but empty: mostly a script has failed to fill it in.
pub(super) fn no_variable_is_empty(command: &Command) -> Result<(), Error> {
    let names = command.get_arguments().filter_map(Arg::get_env);
    let empty = names.filter(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()));
    let Some(name) = empty.min() else { return Ok(()) };
    let origin = Origin::Variable(name.to_string_lossy().into_owned(), String::new());
    Err(Error::Value(ConfigError::at(origin, "set but empty; unset it, or give it a value")))
}

/// What is wrong with a value, by where it was given. `None` for errors that are not about a value.
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
            // Of a list, the whole of it: that is what can be found in a unit or a script.
            let whole = std::env::var_os(name).unwrap_or_else(|| value.into());
            Origin::Variable(name.to_string_lossy().into_owned(), whole.to_string_lossy().into_owned())
        }
        _ => Origin::Flag(flag(argument), value.to_owned()),
    };
    Some(ConfigError::at(origin, cause))
}

/// The variable whose value is not UTF-8: clap says that there is one, and not which.
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

/// Where each setting of a command was given.
pub(super) fn sources(command: &Command, matches: &ArgMatches) -> Sources {
    let mut sources = Sources::default();
    // An argument that this command has not is no error of the operator's.
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

/// A flag as it is written; of an argument without one, what the help calls it.
fn flag(argument: &Arg) -> String {
    let called = || argument.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    argument.get_long().map(|long| format!("--{long}")).or_else(called).unwrap_or_default()
}
