//! The failure of an application, parsed for the error page: message, traceback, and the source lines that both name.
//!
//! Reads no file outside the root. All texts come from the application and are only shown.

use std::path::{Path, PathBuf};

use crate::log::escape;

/// The number of source lines shown before, and after, the line at fault.
const CONTEXT: usize = 5;

/// The number of source lines shown before, and after, a caller's line.
const CALLER_CONTEXT: usize = 2;

/// The most places whose source is shown: the line at fault and its callers.
const MAX_EXCERPTS: usize = 3;

/// The longest file whose source is shown, in bytes. A longer file is not hand-written.
const MAX_SOURCE: u64 = 1 << 20;

/// The most directory entries that are read to complete a name that Lua has cut.
const MAX_LOOKED_AT: usize = 10_000;

/// A failure of the application, in a request or while it loads.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Failure {
    /// Whether the application failed to load; false for a failure in a request.
    pub(super) load: bool,
    /// The first line of the message, without the place.
    pub(super) headline: String,
    /// The whole message.
    pub(super) message: String,
    /// The frames of the traceback, innermost first; empty where no application code was running.
    pub(super) traceback: Vec<String>,
    /// The text that the application wrote to `wsgi.errors` during the request.
    pub(super) written: String,
    /// The source at the first places named in message and traceback.
    pub(super) excerpts: Vec<Excerpt>,
}

/// Consecutive lines of a source file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Excerpt {
    /// Below the root.
    pub(super) file: PathBuf,
    /// The line at fault, from 1.
    pub(super) line: usize,
    /// The lines: number, from 1, and text.
    pub(super) lines: Vec<(usize, String)>,
}

impl Failure {
    /// The failure of the request `id` in the STDERR stream; `None` where the stream holds only the application's own output.
    pub(super) fn of_request(stderr: &[u8], id: &str, root: &Path) -> Option<Self> {
        let text = escape::text(stderr);
        // The format of lua/nibiru/core/request.lua: `GET /path HTTP/1.1 (request ID): MESSAGE`.
        let mark = format!("(request {id}): ");
        let at = text.find(&mark)?;
        let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
        Some(Self::new(&text[at + mark.len()..], &text[..line], root))
    }

    /// The failure to load whose text, message and traceback, the gateway reports as `message`.
    pub(super) fn of_load(message: &str, root: &Path) -> Self {
        Self { load: true, ..Self::new(message, "", root) }
    }

    fn new(text: &str, before: &str, root: &Path) -> Self {
        let (message, rest) = text.split_once("\nstack traceback:\n").unwrap_or((text, ""));
        let frames = rest.lines().take_while(|line| line.starts_with('\t'));
        let traceback: Vec<String> = frames.map(|line| line.trim().to_owned()).collect();
        let after = rest.lines().skip(traceback.len());
        let written: String = before.lines().chain(after).flat_map(|line| [line, "\n"]).collect();

        let lines = message.lines().chain(traceback.iter().map(String::as_str));
        let mut places: Vec<Place<'_>> = Vec::new();
        for place in lines.filter_map(|line| Place::find(line, root)) {
            if !places.iter().any(|other| (&other.file, other.line) == (&place.file, place.line)) {
                places.push(place);
            }
        }
        let placed = message.lines().find_map(|line| Place::find(line, root));
        let headline = placed.map(|place| place.rest).filter(|rest| !rest.is_empty());
        let headline = headline.or(message.lines().next()).unwrap_or_default().to_owned();
        let contexts = std::iter::once(CONTEXT).chain(std::iter::repeat(CALLER_CONTEXT));
        let excerpts = places.iter().zip(contexts).take(MAX_EXCERPTS);
        let excerpts = excerpts.filter_map(|(place, context)| place.excerpt(root, context)).collect();
        Self { load: false, headline, message: message.trim_end().to_owned(), traceback, written, excerpts }
    }
}

/// A place in a source file, at the front of a line of text.
#[derive(Debug)]
struct Place<'a> {
    /// Below the root.
    file: PathBuf,
    line: usize,
    /// The text after the place, without its leading colon.
    rest: &'a str,
}

impl<'a> Place<'a> {
    /// The place `FILE.lua:LINE:` at the front of `text`; `None` where there is none or the file is not below the root.
    fn find(text: &'a str, root: &Path) -> Option<Self> {
        let text = text.trim_start();
        let name = text.find(".lua:")? + ".lua".len();
        let after = &text[name + 1..];
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let file = resolve(&text[..name], root)?;
        let rest = after[digits..].trim_start_matches(':').trim();
        Some(Self { file, line: after[..digits].parse().ok()?, rest })
    }

    fn excerpt(&self, root: &Path, context: usize) -> Option<Excerpt> {
        let path = root.join(&self.file);
        if std::fs::metadata(&path).ok()?.len() > MAX_SOURCE {
            return None;
        }
        let source = std::fs::read(&path).ok()?;
        let source = escape::text(&source);
        let first = self.line.saturating_sub(context).max(1);
        let numbered = source.lines().enumerate().map(|(index, text)| (index + 1, text.to_owned()));
        let lines: Vec<_> = numbered.skip(first - 1).take(self.line + context + 1 - first).collect();
        // The file may have become shorter since.
        (!lines.is_empty()).then(|| Excerpt { file: self.file.clone(), line: self.line, lines })
    }
}

/// The file below the root that Lua calls `name`.
fn resolve(name: &str, root: &Path) -> Option<PathBuf> {
    let path = match name.strip_prefix("...") {
        Some(end) => complete(end, root)?,
        None => root.join(name),
    };
    let path = path.canonicalize().ok()?;
    let below = path.strip_prefix(root).ok()?;
    path.is_file().then(|| below.to_owned())
}

/// A file below the root whose path has this end; `None` where there is none. Lua keeps about the last 60 bytes of a long name
/// (`LUA_IDSIZE`).
fn complete(end: &str, root: &Path) -> Option<PathBuf> {
    let (mut open, mut looked_at) = (vec![root.to_owned()], 0);
    while let Some(directory) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            looked_at += 1;
            if looked_at > MAX_LOOKED_AT {
                return None;
            }
            let path = entry.path();
            if path.as_os_str().as_encoded_bytes().ends_with(end.as_bytes()) {
                return Some(path);
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with `lib/deep.lua` of twenty lines, its path long enough for Lua to cut it.
    fn root() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap().join("a-name-that-makes-the-path-rather-long");
        std::fs::create_dir_all(root.join("lib")).unwrap();
        let source: String = (1..=20).map(|line| format!("line {line}\n")).collect();
        std::fs::write(root.join("lib/deep.lua"), source).unwrap();
        (directory, root)
    }

    #[test]
    fn a_failed_request_comes_apart() {
        let (_directory, root) = root();
        let file = root.join("lib/deep.lua");
        let file = file.display();
        let stderr = format!(
            "a warning\nGET / HTTP/1.1 (request ab): {file}:18: no field\nstack traceback:\n\
             \t[C]: in function 'error'\n\t{file}:18: in function 'f'\n\t{file}:2: in main\nlast words\n"
        );
        let failure = Failure::of_request(stderr.as_bytes(), "ab", &root).unwrap();
        assert_eq!(failure.headline, "no field");
        assert_eq!(failure.message, format!("{file}:18: no field"));
        assert_eq!(failure.traceback.len(), 3);
        assert_eq!(failure.written, "a warning\nlast words\n");
        let places: Vec<_> = failure.excerpts.iter().map(|excerpt| excerpt.line).collect();
        assert_eq!(places, [18, 2]);
        let numbers =
            |at: usize| -> Vec<usize> { failure.excerpts[at].lines.iter().map(|line| line.0).collect() };
        assert_eq!(numbers(0), [13, 14, 15, 16, 17, 18, 19, 20]);
        assert_eq!(numbers(1), [1, 2, 3, 4]);
        assert_eq!(failure.excerpts[0].lines[5].1, "line 18");
    }

    #[test]
    fn words_on_stderr_are_no_failure() {
        assert_eq!(Failure::of_request(b"a warning\n", "ab", Path::new("/")), None);
    }

    #[test]
    fn the_second_line_of_a_load_error_can_be_the_headline() {
        let (_directory, root) = root();
        let file = root.join("lib/deep.lua");
        let message = format!(
            "error loading module 'lib.deep' from file '{0}':\n\t{0}:3: unexpected symbol",
            file.display()
        );
        let failure = Failure::of_load(&message, &root);
        assert_eq!((failure.load, &*failure.headline), (true, "unexpected symbol"));
        assert_eq!(failure.excerpts[0].line, 3);
    }

    #[test]
    fn a_name_that_lua_has_cut_is_completed() {
        let (_directory, root) = root();
        let whole = root.join("lib/deep.lua").display().to_string();
        let cut = format!("...{}:7: boom", &whole[whole.len() - 30..]);
        assert_eq!(Failure::of_load(&cut, &root).excerpts[0].file, Path::new("lib/deep.lua"));
    }

    #[test]
    fn files_outside_the_root_are_not_read() {
        let (_directory, root) = root();
        std::fs::write(root.join("../outside.lua"), "secret\n").unwrap();
        for name in ["../outside.lua".to_owned(), root.join("../outside.lua").display().to_string()] {
            assert_eq!(Failure::of_load(&format!("{name}:1: x"), &root).excerpts, []);
        }
    }
}
