//! Static files from `public/` below the root. In production the proxy serves them.
//!
//! The rule is that of `deploy/nginx`: a file that exists is sent, all other requests are the application's, and hidden files are
//! never read. tower-http does content types, ranges and conditional requests.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Method, Request};
use tower_http::services::ServeDir;

use super::answer::{Answer, Content};
use crate::cgi::path::percent_encode;

/// A directory of static files. The directory need not exist.
#[derive(Debug)]
pub(super) struct StaticFiles {
    directory: PathBuf,
}

impl StaticFiles {
    pub(super) fn new(root: &Path) -> Self {
        Self { directory: root.join("public") }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The response with the file at `path`, the request's path, decoded and normalised; `None` where there is no such file.
    pub(super) async fn find<B>(&self, request: &Request<B>, path: &[u8]) -> Option<Answer> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) || is_hidden(path) {
            return None;
        }
        let relative = path.strip_prefix(b"/")?;
        if relative.is_empty() || relative.ends_with(b"/") || relative.contains(&0) {
            return None;
        }
        if !self.directory.join(OsStr::from_bytes(relative)).is_file() {
            return None;
        }
        let mut wanted = Request::new(Empty::<Bytes>::new());
        *wanted.method_mut() = request.method().clone();
        *wanted.uri_mut() = percent_encode(path).parse().ok()?;
        *wanted.headers_mut() = request.headers().clone();
        let mut directory = ServeDir::new(&self.directory).append_index_html_on_directories(false);
        let answer = directory.try_call(wanted).await.ok()?;
        (answer.status() != hyper::StatusCode::NOT_FOUND).then(|| answer.map(Content::File))
    }
}

/// Whether a part of a path is hidden, as `.git`, `.env` and editors' backups are. `.well-known` is public (RFC 8615).
fn is_hidden(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|part| part.starts_with(b".") && part != b".well-known")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_files_are_never_read_but_well_known_ones_are() {
        assert!(is_hidden(b"/.env"));
        assert!(is_hidden(b"/a/.git/config"));
        assert!(!is_hidden(b"/.well-known/security.txt"));
        assert!(!is_hidden(b"/a.b/c.d"));
    }
}
