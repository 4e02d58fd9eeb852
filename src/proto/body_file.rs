//! A request body in a file of the proxy's, whose path is in a parameter (`--body-file-param`): the decisions. Opens nothing.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};
use std::sync::Arc;

use thiserror::Error;

use crate::cgi::request::ContentLength;

/// The reason for which a file of the proxy's is not taken as a body. Only its request fails.
///
/// The text goes to the client as well, so it has no path.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum BodyFileError {
    /// The path is relative, or leads out of `--body-file-dir`.
    #[error("the body's file is not below --body-file-dir")]
    Outside,
    /// A name of the path is a symbolic link.
    #[error("the path of the body's file has a symbolic link")]
    Link,
    /// There is no such file.
    #[error("the body's file does not exist")]
    Missing,
    /// The file is not a regular one.
    #[error("the body's file is {0}")]
    Kind(&'static str),
    /// The file belongs to a user who is neither root, nor the gateway's, nor the peer.
    #[error("the body's file belongs to another user")]
    Owner(u32),
    /// The gateway may not read the file.
    #[error("the body's file cannot be opened: permission denied")]
    Denied,
    /// The file has another length than CONTENT_LENGTH.
    #[error("the body's file has {length} bytes, CONTENT_LENGTH is {promised}")]
    Length { length: u64, promised: u64 },
    /// Bytes came in STDIN as well.
    #[error("the body came in STDIN as well as in a file")]
    Twice,
    /// The system did not open the file.
    #[error("the body's file cannot be opened: {0}")]
    Io(String),
}

/// The result of an opening: the file with its length in bytes, or the reason for which it is not taken.
pub(crate) type OpenedFile = Result<(Arc<File>, u64), BodyFileError>;

/// Number of kinds of errors: see [`BodyFileError::kind`].
pub(crate) const KINDS: usize = 9;

impl BodyFileError {
    /// The status of the response: 500, since the proxy is at fault. A wrong length is 400, as it is for a body in STDIN.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Length { .. } => 400,
            Self::Io(_) => 503,
            _ => 500,
        }
    }

    /// The kind of the error, below [`KINDS`]. The advice on each is logged once.
    pub(crate) fn kind(&self) -> usize {
        match self {
            Self::Outside => 0,
            Self::Link => 1,
            Self::Missing => 2,
            Self::Kind(_) => 3,
            Self::Owner(_) => 4,
            Self::Denied => 5,
            Self::Length { .. } => 6,
            Self::Twice => 7,
            Self::Io(_) => 8,
        }
    }

    /// What the operator should look at.
    pub(crate) fn advice(&self) -> String {
        match self {
            Self::Outside => "--body-file-dir has to be the proxy's own directory (nginx: client_body_temp_path)".into(),
            Self::Link => "name the directory to which the link leads, for the proxy and in --body-file-dir".into(),
            Self::Missing => {
                "the proxy has to keep the file until the response (nginx: client_body_in_file_only), in a directory that both see"
                    .into()
            }
            Self::Kind(_) => "the proxy has to put the body's path into the parameter (nginx: $request_body_file)".into(),
            Self::Owner(user) => format!(
                "its owner is user {user}; it has to be root, nibiru's user, or the one who has connected to the Unix socket"
            ),
            Self::Denied => {
                "nginx makes its files for its own user alone (mode 0600): run nibiru as that user".into()
            }
            Self::Length { .. } => "the proxy has to send the length of the file as CONTENT_LENGTH".into(),
            Self::Twice => "the proxy must not send the body as well (nginx: fastcgi_pass_request_body off)".into(),
            Self::Io(_) => "no fault of the proxy's is known".into(),
        }
    }
}

/// The users whose files are taken: root, the gateway's own, and the one who has connected, as far as known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owners {
    pub(crate) own: u32,
    /// The user of the peer; `None` over TCP.
    pub(crate) peer: Option<u32>,
}

impl Owners {
    fn have(self, owner: u32) -> bool {
        owner == 0 || owner == self.own || self.peer == Some(owner)
    }
}

/// The path of a file relative to the directory, which is known by any of the paths `directories`.
///
/// # Errors
/// The path does not begin with that of the directory, or has steps (`..`) after it.
pub(crate) fn relative<'a>(
    path: &'a [u8],
    directories: impl IntoIterator<Item = &'a Path>,
) -> Result<&'a Path, BodyFileError> {
    let path = Path::new(OsStr::from_bytes(path));
    let below = directories.into_iter().find_map(|directory| path.strip_prefix(directory).ok());
    let below = below.filter(|below| {
        let mut names = below.components().peekable();
        names.peek().is_some() && names.all(|name| matches!(name, Component::Normal(_)))
    });
    below.filter(|_| path.is_absolute()).ok_or(BodyFileError::Outside)
}

/// Checks an opened file. `other_kind` is its kind where it is not a regular one.
pub(crate) fn check_file(
    other_kind: Option<&'static str>,
    owner: u32,
    owners: Owners,
) -> Result<(), BodyFileError> {
    match other_kind {
        Some(kind) => Err(BodyFileError::Kind(kind)),
        None if owners.have(owner) => Ok(()),
        None => Err(BodyFileError::Owner(owner)),
    }
}

/// Checks the length of a file against the CONTENT_LENGTH of its request.
pub(crate) fn check_length(length: u64, promised: ContentLength) -> Result<(), BodyFileError> {
    match promised {
        ContentLength::Known(promised) if promised != length => {
            Err(BodyFileError::Length { length, promised })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_to_begin_with_the_directorys() {
        let directories = || ["/var/lib/nginx/body", "/srv/body"].map(Path::new);
        for (path, below) in [
            ("/var/lib/nginx/body/0000000001", Some("0000000001")),
            ("/srv/body/1/00/0000000001", Some("1/00/0000000001")),
            ("//srv//body///x", Some("x")),
            ("/srv/body", None),
            ("/srv/body/", None),
            ("/srv/body/.", None),
            ("/srv/body/..", None),
            ("/srv/body/../body/x", None),
            ("/srv/body/x/../y", None),
            ("/srv/bodyx/y", None),
            ("/srv/x", None),
            ("srv/body/x", None),
            ("x", None),
            ("./x", None),
            ("/", None),
            ("", None),
        ] {
            let expected = below.map(Path::new).ok_or(BodyFileError::Outside);
            assert_eq!(relative(path.as_bytes(), directories()), expected, "{path}");
        }
    }

    #[test]
    fn the_owner_is_root_the_gateways_user_or_the_peer() {
        let owners = |peer| Owners { own: 1000, peer };
        for (owner, peer, fine) in [
            (0, None, true),
            (1000, None, true),
            (33, None, false),
            (33, Some(33), true),
            (34, Some(33), false),
            (0, Some(33), true),
        ] {
            let checked = check_file(None, owner, owners(peer));
            assert_eq!(checked, if fine { Ok(()) } else { Err(BodyFileError::Owner(owner)) });
        }
        let pipe = check_file(Some("a named pipe"), 0, owners(None));
        assert_eq!(pipe, Err(BodyFileError::Kind("a named pipe")));
    }

    #[test]
    fn the_length_is_the_promised_one_where_one_is_promised() {
        assert_eq!(check_length(5, ContentLength::Known(5)), Ok(()));
        assert_eq!(check_length(5, ContentLength::UntilEnd), Ok(()));
        for promised in [0, 4, 6] {
            let error = check_length(5, ContentLength::Known(promised)).unwrap_err();
            assert_eq!((error.clone(), error.status()), (BodyFileError::Length { length: 5, promised }, 400));
        }
    }

    #[test]
    fn every_kind_of_error_has_a_number_of_its_own() {
        let errors = [
            BodyFileError::Outside,
            BodyFileError::Link,
            BodyFileError::Missing,
            BodyFileError::Kind("a directory"),
            BodyFileError::Owner(7),
            BodyFileError::Denied,
            BodyFileError::Length { length: 1, promised: 2 },
            BodyFileError::Twice,
            BodyFileError::Io("too many open files".to_owned()),
        ];
        assert_eq!(errors.each_ref().map(BodyFileError::kind), std::array::from_fn(|kind| kind));
        assert_eq!(errors.len(), KINDS);
        for error in errors {
            assert!(!error.advice().is_empty() && !error.to_string().contains('/'), "{error}");
        }
    }
}
