//! Applications that a test writes, and the gate by which a test and its application synchronize.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::wait::wait_for;
use super::wire::Connection;

/// An `app.lua` in a scratch directory, which can be rewritten while it is served.
#[derive(Debug)]
pub(crate) struct App(TempDir);

impl App {
    pub(crate) fn new(text: &str) -> Self {
        let app = Self(tempfile::tempdir().unwrap());
        app.write(text);
        app
    }

    /// Replaces the file in one step: a reader sees the old text or the new text.
    pub(crate) fn write(&self, text: &str) {
        let path = self.0.path().join("app.lua");
        fs::write(path.with_extension("new"), text).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

/// The source of an application that answers every request with `text`.
pub(crate) fn says(text: &str) -> String {
    format!("return function() return 200, {{}}, '{text}' end\n")
}

/// The body of the response to `GET /`, whose status has to be 200.
#[track_caller]
pub(crate) fn response_text(socket: &Path) -> String {
    let response = Connection::open(socket).get("/");
    assert_eq!(response.status(), 200, "{response:?}");
    response.text()
}

/// A directory by which a test and its application synchronize: the application announces names and waits for names;
/// the test waits for announcements and opens names. See `tests/apps/gate.lua`.
#[derive(Debug)]
pub(crate) struct Gate(TempDir);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The gate's directory, for an application that does not get it by [`Self::url`].
    pub(crate) fn directory(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    /// `path` of an application, with this gate in its query string.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{path}?dir={}", self.0.path().display())
    }

    /// Lets an application that waits for `name` go on.
    pub(crate) fn open(&self, name: &str) {
        fs::write(self.0.path().join(name), "").unwrap();
    }

    /// Waits until the application announces `name`, and returns the announced text.
    #[track_caller]
    pub(crate) fn announced(&self, name: &str) -> String {
        wait_for(&format!("the application announces {name}"), || self.said(name))
    }

    /// The text that the application announced as `name`, if any.
    pub(crate) fn said(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.path().join(name)).ok()
    }
}
