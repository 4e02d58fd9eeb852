//! Bodies in files of the proxy's (`--body-file-param`): opened on the spool's threads, and never copied, written or removed.
//!
//! The decisions are in [`crate::proto::body_file`].

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::config;
use crate::gateway::spool::{Job, Spool};
use crate::os::beneath::{Directory, Opened, Refusal};
use crate::proto::body::Open;
use crate::proto::body_file::{self, BodyFileError, OpenedFile, Owners};
use crate::proto::connection::StreamKey;

/// The proxy's directory for bodies, kept open, and the parameter with the path of a file.
#[derive(Debug)]
pub(crate) struct BodyFiles {
    param: String,
    /// The paths by which the proxy may know the directory.
    paths: [PathBuf; 2],
    /// The directory; the cause where it could not be opened.
    directory: Result<Directory, String>,
}

impl BodyFiles {
    /// Opens the directory of the settings.
    pub(crate) fn open(files: &config::BodyFiles) -> io::Result<Self> {
        let directory = Directory::open(files.resolved())?;
        Ok(Self { param: files.param.clone(), paths: files.directory.clone(), directory: Ok(directory) })
    }

    /// The files of a directory that could not be opened, for this cause. None of them is taken.
    pub(crate) fn closed(files: &config::BodyFiles, cause: String) -> Self {
        Self { param: files.param.clone(), paths: files.directory.clone(), directory: Err(cause) }
    }

    /// The parameter with the path of a file.
    pub(crate) fn param(&self) -> &[u8] {
        self.param.as_bytes()
    }

    /// Opens and checks the file at `path`. Returns it with its length.
    fn take(&self, path: &[u8], owners: Owners) -> OpenedFile {
        let below = body_file::relative(path, self.paths.iter().map(PathBuf::as_path))?;
        let directory = self.directory.as_ref().map_err(|cause| BodyFileError::Io(cause.clone()))?;
        let Opened { file, other_kind, owner, length } = directory.read(below).map_err(refused)?;
        body_file::check_file(other_kind, owner, owners)?;
        Ok((Arc::new(file), length))
    }
}

fn refused(refusal: Refusal) -> BodyFileError {
    match refusal {
        Refusal::Outside => BodyFileError::Outside,
        Refusal::Link => BodyFileError::Link,
        Refusal::Missing => BodyFileError::Missing,
        Refusal::Denied => BodyFileError::Denied,
        Refusal::NoFile => BodyFileError::Kind("a socket or a device"),
        Refusal::Other(error) => BodyFileError::Io(crate::log::cause(&error)),
    }
}

/// The opening of a file in progress.
pub(crate) struct BodyOpening {
    pub(crate) of: StreamKey,
    job: Job<OpenedFile>,
}

impl BodyOpening {
    /// Ready at its end, with the file and its length on success.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<OpenedFile> {
        let opened = self.job.as_mut().poll(context);
        opened.map(|opened| opened.unwrap_or_else(|error| Err(BodyFileError::Io(crate::log::cause(&error)))))
    }
}

impl Spool {
    /// Starts to open the proxy's file for a body. `peer` is the user of the peer, as far as known. Without `files` the setting has
    /// been turned off since the request came.
    pub(crate) fn open_body(
        &self,
        of: StreamKey,
        open: Open,
        files: Option<Arc<BodyFiles>>,
        peer: Option<u32>,
    ) -> BodyOpening {
        let owners = Owners { own: rustix::process::geteuid().as_raw(), peer };
        let job = self.run(move || {
            let Open { path, claim } = open;
            let taken = match files {
                Some(files) => files.take(&path, owners),
                None => Err(BodyFileError::Io("--body-file-param is off since the reload".to_owned())),
            };
            drop(claim);
            Ok(taken)
        });
        BodyOpening { of, job }
    }
}
