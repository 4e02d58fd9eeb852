//! The directory in which nibiru was started, by the name that its user gave it.
//!
//! A release behind a link (`cd /srv/current && nibiru serve app`) has two names: the shell's, `/srv/current`, and the
//! kernel's, `/srv/releases/1`. What is given relatively starts at the first when the settings are read again, so that a
//! reload finds the release to which the link leads by then.

use std::path::{Path, PathBuf};

use super::options::Options;

/// An absolute path that may lead through links.
#[derive(Clone, Debug)]
pub struct StartDirectory(PathBuf);

impl StartDirectory {
    /// Of this process, which must not have changed its working directory.
    pub fn of_this_process() -> Self {
        let shells = std::env::var_os("PWD").map(PathBuf::from);
        // A working directory that has been removed has no name, and relative paths lead nowhere.
        let kernels = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        Self(logical(shells, kernels, |path| {
            let same = |one: rustix::fs::Stat, other: rustix::fs::Stat| {
                (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
            };
            matches!((rustix::fs::stat(path), rustix::fs::stat(".")), (Ok(one), Ok(other)) if same(one, other))
        }))
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// What `pwd -L` gives (POSIX): the shell's name where that is absolute, has no steps in it and is the working directory;
/// otherwise the kernel's. Whoever starts a program without a shell may leave another directory's name in `$PWD`.
fn logical(
    shells: Option<PathBuf>,
    kernels: PathBuf,
    is_working_directory: impl FnOnce(&Path) -> bool,
) -> PathBuf {
    let has_steps = |path: &Path| {
        path.as_os_str()
            .as_encoded_bytes()
            .split(|byte| *byte == b'/')
            .any(|name| matches!(name, b"." | b".."))
    };
    shells
        .filter(|path| path.is_absolute() && !has_steps(path) && is_working_directory(path))
        .unwrap_or(kernels)
}

impl Options {
    /// Has the application's root start at `directory` where it is given relatively, or not at all. Sockets, logs and the
    /// spool directory stay where they are while the server runs.
    #[must_use]
    pub fn with_root_below(mut self, directory: &Path) -> Self {
        self.root = Some(directory.join(self.root.as_deref().unwrap_or(Path::new("."))));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shells_name_counts_where_it_is_that_of_the_working_directory() {
        let name = |shells: Option<&str>, same: bool| {
            logical(shells.map(PathBuf::from), "/srv/releases/1".into(), |_| same).display().to_string()
        };
        assert_eq!(name(Some("/srv/current"), true), "/srv/current");
        assert_eq!(name(Some("/srv/a b..c/.d"), true), "/srv/a b..c/.d");
        for (shells, same) in [
            (None, true),
            (Some("/srv/current"), false),
            (Some(""), true),
            (Some("current"), true),
            (Some("/srv/./current"), true),
            (Some("/srv/x/../current"), true),
            (Some("/srv/current/.."), true),
        ] {
            assert_eq!(name(shells, same), "/srv/releases/1", "{shells:?}");
        }
    }

    #[test]
    fn only_a_relative_root_starts_at_the_directory() {
        for (given, expected) in
            [(None, "/srv/current/."), (Some("web"), "/srv/current/web"), (Some("/opt/web"), "/opt/web")]
        {
            let options = Options { root: given.map(PathBuf::from), ..Options::default() };
            let root = options.with_root_below(Path::new("/srv/current")).root;
            assert_eq!(root.as_deref(), Some(Path::new(expected)));
        }
    }

    #[test]
    fn this_process_has_one_that_is_its_working_directory() {
        let directory = StartDirectory::of_this_process();
        assert_eq!(
            directory.path().canonicalize().unwrap(),
            std::env::current_dir().unwrap().canonicalize().unwrap()
        );
    }
}
