//! Server and client held against each other, in memory.
//!
//! [`check`] runs every vector whole, byte by byte, and with the first bytes of a next record behind it;
//! events, output and fault must be the same.

mod client_side;
mod conformance;

use super::record::{Header, RecordType};
use super::*;

/// The outcome of a connection: `seen` are the events, `out` the bytes, `replies` the messages that a client reads from them.
#[derive(Debug, PartialEq)]
struct Outcome {
    seen: Vec<String>,
    replies: Vec<String>,
    out: Vec<u8>,
    fault: Option<Fault>,
}

/// The application's reaction to an event.
type React = fn(&mut Server, &Event<'_>, &mut Vec<u8>) -> Option<AfterEnd>;

/// Does nothing: requests stay in use.
fn wait(_: &mut Server, _: &Event<'_>, _: &mut Vec<u8>) -> Option<AfterEnd> {
    None
}

/// Answers each request when its body is complete, or when it is refused or aborted.
fn answer(server: &mut Server, event: &Event<'_>, out: &mut Vec<u8>) -> Option<AfterEnd> {
    let (id, body, app_status) = match event {
        Event::StdinEnd { id } => (*id, format!("Status: 200\r\n\r\nhello {id}"), 0),
        Event::Refused { id, refusal } => (*id, format!("Status: {}\r\n\r\n", refusal.status()), 0),
        Event::Abort { id } => (*id, String::new(), 1),
        _ => return None,
    };
    server.stdout(id, body.as_bytes(), out);
    Some(server.end(id, app_status, ProtocolStatus::RequestComplete, out))
}

fn check(bytes: &[u8], react: React) -> Outcome {
    check_within(Limits::default(), bytes, react)
}

fn check_within(limits: Limits, bytes: &[u8], react: React) -> Outcome {
    let whole = run(limits, [bytes], react);
    assert_eq!(run(limits, bytes.chunks(1), react), whole, "byte by byte");
    let trailing = [bytes, &[1, 4, 0, 1, 0]].concat();
    assert_eq!(run(limits, [&trailing[..]], react), whole, "with trailing bytes");
    whole
}

fn run<'b>(limits: Limits, reads: impl IntoIterator<Item = &'b [u8]>, react: React) -> Outcome {
    let (mut server, mut out, mut seen, mut fault) = (Server::new(limits), Vec::new(), Vec::new(), None);
    'reads: for mut input in reads {
        loop {
            match server.receive(&mut input, &mut out) {
                Ok(Some(event)) => {
                    note(&event, &mut seen);
                    if let Some(after) = react(&mut server, &event, &mut out) {
                        seen.push(format!("{after:?}"));
                    }
                }
                Ok(None) => break,
                Err(found) => {
                    assert_eq!(server.receive(&mut &b"\x01"[..], &mut out), Err(found), "a fault stays");
                    fault = Some(found);
                    break 'reads;
                }
            }
        }
        assert_eq!(input, b"", "all input is used up");
    }
    Outcome { seen, replies: replies(&out), out, fault }
}

fn note(event: &Event<'_>, seen: &mut Vec<String>) {
    let (line, bytes): (String, &[u8]) = match event {
        Event::Begin { id, role, keep_open } => (format!("begin {id} {role:?} keep={keep_open}"), b""),
        Event::Params { id, variables } => {
            let pairs: String = variables
                .iter()
                .map(|(name, value)| format!(" {}={}", name.escape_ascii(), value.escape_ascii()))
                .collect();
            (format!("params {id}{pairs}"), b"")
        }
        Event::Stdin { id, bytes } => (format!("stdin {id} "), bytes),
        Event::StdinEnd { id } => (format!("stdin end {id}"), b""),
        Event::StdinEndInDoubt { id } => (format!("stdin end in doubt {id}"), b""),
        Event::Data { id, bytes } => (format!("data {id} "), bytes),
        Event::DataEnd { id } => (format!("data end {id}"), b""),
        Event::Abort { id } => (format!("abort {id}"), b""),
        Event::Refused { id, refusal } => (format!("refused {id} {refusal:?}"), b""),
    };
    push_joined(line, bytes, seen);
}

/// Joins a piece of a stream with the piece before it, so that only the stream's bytes count.
fn push_joined(line: String, bytes: &[u8], lines: &mut Vec<String>) {
    match lines.last_mut() {
        Some(last) if !bytes.is_empty() && last.starts_with(&line) => {
            last.push_str(&bytes.escape_ascii().to_string());
        }
        _ => lines.push(format!("{line}{}", bytes.escape_ascii())),
    }
}

fn replies(out: &[u8]) -> Vec<String> {
    use client::Reply;
    let (mut decoder, mut input, mut lines) = (client::Decoder::new(), out, Vec::new());
    while let Some(reply) = decoder.receive(&mut input).expect("a client understands all output") {
        let (line, bytes): (String, &[u8]) = match reply {
            Reply::Stdout { id, bytes } => (format!("stdout {id} "), bytes),
            Reply::Stderr { id, bytes } => (format!("stderr {id} "), bytes),
            Reply::End { id, app_status, protocol_status } => {
                (format!("end {id} {app_status} {protocol_status:?}"), b"")
            }
            Reply::Values(values) => {
                let pairs: String = values
                    .iter()
                    .map(|(name, value)| format!(" {}={}", name.escape_ascii(), value.escape_ascii()))
                    .collect();
                (format!("values{pairs}"), b"")
            }
            Reply::UnknownType(record_type) => (format!("unknown type {record_type}"), b""),
        };
        push_joined(line, bytes, &mut lines);
    }
    assert!(decoder.is_between_records());
    assert_eq!(out.len() % 8, 0, "c30: all output is aligned");
    lines
}

/// Writes a client's records, also such as no client should send.
#[derive(Default)]
struct Wire(Vec<u8>);

impl Wire {
    fn new() -> Self {
        Self::default()
    }

    fn raw(mut self, record_type: u8, id: u16, content: &[u8], padding: u8) -> Self {
        let header = Header {
            record_type: RecordType::from_byte(record_type),
            request_id: id,
            content_length: content.len().try_into().unwrap(),
            padding_length: padding,
        };
        self.0.extend_from_slice(&header.encode());
        self.0.extend_from_slice(content);
        self.0.extend(std::iter::repeat_n(0xee, padding.into()));
        self
    }

    fn raw_all(mut self, more: &Self) -> Self {
        self.0.extend_from_slice(&more.0);
        self
    }

    fn begin(mut self, id: u16) -> Self {
        client::begin(id, Role::Responder, true, &mut self.0);
        self
    }

    fn begin_as(mut self, id: u16, role: Role, keep_open: bool) -> Self {
        client::begin(id, role, keep_open, &mut self.0);
        self
    }

    fn params(mut self, id: u16, pairs: &[(&str, &str)]) -> Self {
        client::params(
            id,
            pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())),
            &mut self.0,
        );
        self
    }

    fn stdin(mut self, id: u16, bytes: &[u8]) -> Self {
        client::stdin(id, bytes, &mut self.0);
        self
    }

    fn stdin_end(mut self, id: u16) -> Self {
        client::stdin_end(id, &mut self.0);
        self
    }

    fn abort(mut self, id: u16) -> Self {
        client::abort(id, &mut self.0);
        self
    }

    fn get_values(mut self, names: &[&str]) -> Self {
        client::get_values(names, &mut self.0);
        self
    }

    /// A whole request without a body.
    fn request(self, id: u16) -> Self {
        self.begin(id).params(id, &[("A", "1")]).stdin_end(id)
    }
}

const BEGIN: u8 = 1;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const DATA: u8 = 8;
