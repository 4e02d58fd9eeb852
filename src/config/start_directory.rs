//! The directory in which nibiru was started, by the name that its user gave it.
//!
//! A release behind a link (`cd /srv/current && nibiru serve app`) has two names: the shell's, `/srv/current`, and the
//! kernel's, `/srv/releases/1`. Relative paths start at the shell's when the settings are read again, so that a reload finds the
//! release to which the link leads by then.

use std::path::{Path, PathBuf};

use super::options::Options;

/// The start directory: an absolute path that may lead through links.
#[derive(Clone, Debug)]
pub struct StartDirectory(PathBuf);

impl StartDirectory {
    /// The start directory of this process. Called before the process changes its working directory.
    pub fn of_this_process() -> Self {
        let shells = std::env::var_os("PWD").map(PathBuf::from);
        // A removed working directory has no name, and relative paths lead nowhere.
        let kernels = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        Self(logical(shells, kernels, |path| {
            let same = |one: rustix::fs::Stat, other: rustix::fs::Stat| {
                (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
            };
            matches!((rustix::fs::stat(path), rustix::fs::stat(".")), (Ok(one), Ok(other)) if same(one, other))
        }))
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// The name that `pwd -L` gives (POSIX): the shell's where that is absolute, has no steps (`..`) and is the working directory;
/// otherwise the kernel's. A program that is started without a shell may find another directory's name in `$PWD`.
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
    /// Resolves a root that is relative or missing, and a relative directory of the proxy's, against `directory`. Sockets, logs and the
    /// spool directory need no such step: a running server keeps them.
    #[must_use]
    pub fn with_paths_below(mut self, directory: &Path) -> Self {
        self.root = Some(directory.join(self.root.as_deref().unwrap_or(Path::new("."))));
        self.body_file_dir = self.body_file_dir.map(|below| directory.join(below));
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
            let root = options.with_paths_below(Path::new("/srv/current")).root;
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
