//! curl for single requests, and the response as curl saw it. For responses byte by byte, see [`super::http`].

use std::process::{Command, Output, Stdio};

/// A curl command for one request. It prints the head, then the body.
pub(crate) fn curl<const N: usize>(arguments: [&str; N], url: &str) -> Command {
    let mut command = Command::new("curl");
    // Without globbing, square brackets are literal. Without `Expect`, the output has no `100 Continue`.
    command.args(["--silent", "--show-error", "--include", "--no-buffer", "--path-as-is", "--globoff"]);
    command.args(["--noproxy", "*", "--header", "Expect:", "--max-time", "120"]);
    command.args(arguments).arg(url);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A response as curl saw it.
#[derive(Debug)]
pub(crate) struct Reply {
    /// 0 when no head arrived.
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
    /// curl's exit code: 0 only when the transfer was complete.
    pub(crate) exit: i32,
    /// curl's standard error.
    pub(crate) stderr: String,
}

impl Reply {
    /// Runs a command of [`curl`].
    pub(crate) fn of(curl: &mut Command) -> Self {
        Self::from_curl(curl.output().unwrap())
    }

    pub(crate) fn from_curl(output: Output) -> Self {
        let end = output.stdout.windows(4).position(|window| window == b"\r\n\r\n");
        let (head, body) =
            end.map_or((&b""[..], &b""[..]), |end| (&output.stdout[..end + 2], &output.stdout[end + 4..]));
        let head = String::from_utf8_lossy(head).into_owned();
        Self {
            status: head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0),
            head,
            body: body.to_vec(),
            exit: output.status.code().unwrap_or(-1),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Every value of the header `name`, in order.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let pairs = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).first().copied()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Fails unless the response is complete and has this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        let complete = self.exit == 0 && self.status == status;
        assert!(complete, "expected a complete {status}: {}{self:?}", self.stderr);
        self
    }
}
