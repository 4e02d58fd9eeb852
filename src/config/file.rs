//! `nibiru.toml`: its place, its keys, and the line in which each stands. `de` reads the values.

use std::path::Path;

use toml::de::DeTable;

use super::error::ConfigError;
use super::options::{Options, SETTINGS};
use super::source::{Origin, Sources};
use super::suggest;
use crate::log;

/// The name of the file that is read, if it exists, where `--config` names none.
pub const FILE: &str = "nibiru.toml";

/// Characters of an entry (a key and its value) that a message shows.
const ENTRY_SHOWN: usize = 80;

impl Options {
    /// Reads a configuration file; `None` where `path` is `None` and there is no [`FILE`]. Relative paths start at `directory`, which
    /// may be empty for the working directory.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, or has a key or a value that is refused; the message has its line.
    pub fn from_file(directory: &Path, path: Option<&Path>) -> Result<Option<(Self, Sources)>, ConfigError> {
        let (path, required) = path.map_or((Path::new(FILE), false), |path| (path, true));
        let path = &directory.join(path);
        match std::fs::read_to_string(path) {
            Ok(text) => read(path, &text).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => Ok(None),
            Err(error) => Err(ConfigError::new(path.display(), log::cause(&error))),
        }
    }
}

/// The settings in the text of a file, and the line of each.
pub(super) fn read(path: &Path, text: &str) -> Result<(Options, Sources), ConfigError> {
    let origin = |start: usize, entry: &str| {
        let first = entry.lines().next().unwrap_or_default();
        let shown: String = first.chars().take(ENTRY_SHOWN).collect();
        let more = if shown.len() < entry.len() { " …" } else { "" };
        Origin::File(path.to_owned(), line_of(text, start), format!("{shown}{more}"))
    };
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_of(text, error.span().map_or(0, |span| span.start));
        ConfigError::new(format_args!("{}:{line}", path.display()), error.message().trim_end())
    })?;
    let entries =
        table.get_ref().iter().map(|(key, value)| (key.span().start, value.span().end, key.get_ref()));
    let entries: Vec<(usize, usize, &str)> =
        entries.map(|(start, end, key)| (start, end.max(start), key.as_ref())).collect();
    let options = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        match entries.iter().find(|(start, end, _)| (*start..*end).contains(&at)) {
            Some((start, _, key)) if error.message().starts_with("unknown field") => {
                let meant = suggest::alike(key, SETTINGS.iter().map(|setting| setting.key))
                    .map(|meant| format!("; did you mean {meant}?"));
                ConfigError::at(origin(*start, key), format!("unknown key{}", meant.unwrap_or_default()))
            }
            Some((start, end, _)) => ConfigError::at(origin(*start, &text[*start..*end]), error.message()),
            None => ConfigError::new(path.display(), error.message()),
        }
    })?;
    let mut sources = Sources::default();
    for (start, end, key) in &entries {
        sources.insert(*key, origin(*start, &text[*start..*end]));
    }
    Ok((options, sources))
}

/// The line of the byte at `at`, counted from 1.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use crate::config::samples::file;

    #[test]
    fn a_message_names_line_key_and_value_of_the_file() {
        for (text, message) in [
            (
                "\nmax-requests = 'x' # so",
                "nibiru.toml:2: max-requests = 'x': expected a number above zero, or off",
            ),
            (
                "access-log = -1",
                "nibiru.toml:1: access-log = -1: expected the name of a file, or - for standard output, or off, in quotes",
            ),
            (
                "listen = ['unix:a',\n'b']",
                "nibiru.toml:1: listen = ['unix:a', …: \"b\": expected unix:PATH, tcp:HOST:PORT, fd:N or systemd",
            ),
            (
                "socket-mode = 0o660",
                "nibiru.toml:1: socket-mode = 0o660: expected an octal mode such as 0660, in quotes",
            ),
            ("preload = 'x'", "nibiru.toml:1: preload = 'x': expected one of \"auto\", \"on\", \"off\""),
            ("root = 1", "nibiru.toml:1: root = 1: expected a name or a path, in quotes"),
            ("[server]", "nibiru.toml:1: server: unknown key"),
            ("\n\nworkers =", "nibiru.toml:3: string values must be quoted, expected literal string"),
        ] {
            assert_eq!(file(text).unwrap_err(), message);
        }
    }

    #[test]
    fn a_misspelt_key_and_a_bad_value_are_named() {
        assert!(file("wokers = 3").unwrap_err().contains("wokers"));
        assert!(file("queue-timeout = '10'").unwrap_err().contains("30s"));
        assert!(file("workers = 0").is_err());
        assert!(file("socket-mode = '0666'").unwrap_err().contains("world-writable"));
    }
}
