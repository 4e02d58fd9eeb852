//! A Lua state held against its interface, with a worker's output in memory.

use std::cell::RefCell;
use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use mlua::{BString, Function, Value};

use super::*;
use crate::cgi::{ProxyHeaders, Variables};
use crate::log::Level;

mod bench;
mod exit;
mod interrupts;
mod isolation;
mod lifecycle;
mod loading;
mod native_code;
mod programs;
mod strict;
mod tables;

/// The output of an application, in order.
#[derive(Default)]
struct Record {
    head: Option<String>,
    /// Bytes between two flushes belong together.
    chunks: Vec<Vec<u8>>,
    open: bool,
    log: Vec<(Level, String)>,
    stacks: Vec<(Interrupt, String)>,
    /// Bytes of body that the client still takes before it goes away.
    patience: Option<usize>,
    /// Programs that the application was about to start.
    programs: usize,
    /// Whether files are taken.
    takes_files: bool,
    /// Parts of files, as offset and length. Their bytes are in `chunks`, too.
    files: Vec<(u64, u64)>,
}

/// Keeps everything in memory.
#[derive(Clone, Default)]
struct Recorder(Rc<RefCell<Record>>);

impl Output for Recorder {
    fn head(&mut self, head: &[u8]) -> Result<(), ClientGone> {
        let mut record = self.0.borrow_mut();
        assert!(record.head.is_none(), "a second head");
        record.head = Some(String::from_utf8_lossy(head).into_owned());
        Ok(())
    }

    fn body(&mut self, bytes: &[u8]) -> Result<(), ClientGone> {
        let mut record = self.0.borrow_mut();
        assert!(record.head.is_some(), "a body before its head");
        assert!(!bytes.is_empty(), "an empty chunk");
        if let Some(patience) = &mut record.patience {
            *patience = patience.checked_sub(bytes.len()).ok_or(ClientGone)?;
        }
        if !record.open {
            record.chunks.push(Vec::new());
            record.open = true;
        }
        record.chunks.last_mut().expect("pushed above").extend_from_slice(bytes);
        Ok(())
    }

    fn takes_file(&self, _: u64) -> bool {
        self.0.borrow().takes_files
    }

    fn file(&mut self, file: OwnedFd, offset: u64, length: u64) -> Result<(), ClientGone> {
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        fs::File::from(file).read_exact_at(&mut bytes, offset).unwrap();
        self.body(&bytes)?;
        self.0.borrow_mut().files.push((offset, length));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ClientGone> {
        self.0.borrow_mut().open = false;
        Ok(())
    }

    fn wait(&mut self, _: Duration) -> Result<(), ClientGone> {
        if self.0.borrow().patience == Some(0) { Err(ClientGone) } else { Ok(()) }
    }

    fn log(&mut self, level: Level, message: &[u8], fields: &str) {
        let space = if fields.is_empty() { "" } else { " " };
        let line = format!("{}{space}{fields}", String::from_utf8_lossy(message));
        self.0.borrow_mut().log.push((level, line));
    }

    fn stack(&mut self, interrupt: Interrupt, text: &[u8]) {
        self.0.borrow_mut().stacks.push((interrupt, String::from_utf8_lossy(text).into_owned()));
    }

    fn before_program(&mut self) {
        self.0.borrow_mut().programs += 1;
    }

    fn exit(&mut self, outcome: Option<Outcome>, code: i32) -> ! {
        panic!("os.exit({code}) outside the test of it: {outcome:?}")
    }
}

impl Recorder {
    fn take(&self) -> Record {
        self.0.take()
    }
}

fn lua_tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lua")
}

fn settings(target: &str) -> Settings {
    let (root, target) = (lua_tests(), target.parse().unwrap());
    Settings { root, target, generation: 7, proxy_headers: ProxyHeaders::default() }
}

fn started(target: &str) -> (State, Recorder) {
    started_with(&settings(target))
}

fn started_with(settings: &Settings) -> (State, Recorder) {
    let mut state = State::new(settings).unwrap();
    state.load().unwrap();
    state.settle();
    let recorder = Recorder::default();
    state.start_worker(3, 42, Box::new(recorder.clone())).unwrap();
    (state, recorder)
}

fn spooled(bytes: &[u8]) -> Body {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Body::File { file, length: bytes.len() as u64 }
}

/// The variables of an ordinary request behind nginx.
fn variables(method: &str, more: &[(BString, BString)]) -> Variables {
    let mut variables = Variables::new();
    for (name, value) in [
        ("QUERY_STRING", "a=1"),
        ("REQUEST_METHOD", method),
        ("CONTENT_TYPE", ""),
        ("CONTENT_LENGTH", ""),
        ("SCRIPT_NAME", ""),
        ("PATH_INFO", "/path"),
        ("REQUEST_URI", "/path?a=1"),
        ("DOCUMENT_URI", "/path"),
        ("DOCUMENT_ROOT", "/usr/share/nginx/html"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_SCHEME", "http"),
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_SOFTWARE", "nginx/1.22.1"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("REMOTE_PORT", "49152"),
        ("SERVER_ADDR", "127.0.0.1"),
        ("SERVER_PORT", "80"),
        ("SERVER_NAME", "localhost"),
        ("HTTP_HOST", "localhost"),
        ("HTTP_USER_AGENT", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("HTTP_ACCEPT", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("HTTP_ACCEPT_LANGUAGE", "en-US,en;q=0.5"),
        ("HTTP_ACCEPT_ENCODING", "gzip, deflate, br"),
        ("HTTP_CONNECTION", "keep-alive"),
        ("HTTP_COOKIE", "session=0123456789abcdef0123456789abcdef"),
    ] {
        variables.push(name.as_bytes(), value.as_bytes());
    }
    for (name, value) in more {
        variables.push(name, value);
    }
    variables
}

fn serve(state: &mut State, method: &str, body: Body) -> Outcome {
    let variables = variables(method, &[]);
    let outcome = state.serve(Request {
        serial: 1,
        id: b"test-id",
        variables: &variables,
        body,
        role: Role::Responder,
    });
    state.after_response();
    outcome
}

/// The error that `code` raises.
fn run_error(state: &State, code: &str) -> String {
    state.lua().load(code).exec().unwrap_err().to_string()
}

/// The error of a target that does not load, among `files` in a root of their own, which the message shows as `ROOT`.
fn load_error(files: &[(&str, &str)], target: &str) -> LoadError {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let settings = Settings { root: directory.path().to_owned(), ..settings(target) };
    let mut error = State::new(&settings).unwrap().load().expect_err(target);
    error.message = error.message.replace(&directory.path().display().to_string(), "ROOT");
    error
}
