//! Properties of a connection of the server. The input decides when and how the caller responds.

use std::collections::{BTreeMap, BTreeSet};

use nibiru::fastcgi::client::{Decoder, Reply};
use nibiru::fastcgi::{Event, Fault, Limits, MAX_REFUSED, ProtocolStatus, Role, Server};

use super::{controls, pieces, push_joined};

/// Limits so small that an input can reach each of them.
const LIMITS: Limits = Limits {
    max_params: 1000,
    max_pairs: 20,
    max_requests: 4,
    max_ignored: 50,
    server_connections: 10,
    server_requests: 100,
};

/// Events and output of a connection.
#[derive(Debug, PartialEq)]
struct Outcome {
    events: Vec<(String, Vec<u8>)>,
    out: Vec<u8>,
    fault: Option<Fault>,
}

/// Events and output are independent of the split into reads, and keep the server's guarantees: the order of events, limits on
/// buffered bytes and on unrequested output, and output that a client understands.
pub(crate) fn connection(data: &[u8]) {
    let (bytes, controls) = controls(data);
    for limits in [LIMITS, Limits::default()] {
        let whole = run(limits, [bytes], bytes.len(), controls);
        assert_eq!(run(limits, pieces(bytes, controls), bytes.len(), controls), whole, "in pieces");
        assert_eq!(run(limits, bytes.chunks(1), bytes.len(), controls), whole, "byte by byte");
    }
}

fn run<'b>(
    limits: Limits,
    reads: impl IntoIterator<Item = &'b [u8]>,
    length: usize,
    decisions: &[u8],
) -> Outcome {
    let (mut server, mut order) = (Server::new(limits), Order::default());
    let (mut out, mut events, mut fault) = (Vec::new(), Vec::new(), None);
    // The split of a body must not change the responses, so its pieces take no decision from the input.
    let mut decisions = decisions.iter().cycle();
    let (mut answered, mut calls) = (0, 0);
    'reads: for mut input in reads {
        loop {
            calls += 1;
            assert!(calls < 3 * length + 10, "the server makes no progress");
            match server.receive(&mut input, &mut out) {
                Ok(Some(event)) => {
                    order.check(&event);
                    let streams = note(&event, &mut events);
                    let decision = if streams { None } else { decisions.next() };
                    let before = out.len();
                    if let Some(decision) = decision {
                        answer(*decision, &mut server, &event, &mut order, &mut out);
                    }
                    answered += out.len() - before;
                }
                Ok(None) => break,
                Err(found) => {
                    assert_eq!(server.receive(&mut &b"\x01"[..], &mut out), Err(found), "a fault stays");
                    fault = Some(found);
                    break 'reads;
                }
            }
        }
        assert!(input.is_empty(), "all input is consumed");
        assert!(server.active() <= limits.max_requests + MAX_REFUSED);
        assert_eq!(server.active(), order.active.len());
    }
    assert!(
        out.len() - answered <= 3 * length,
        "{} unrequested bytes for {length} bytes of input",
        out.len() - answered
    );
    understood(&out);
    Outcome { events, out, fault }
}

/// Acts on an event by a decision of the input.
fn answer(decision: u8, server: &mut Server, event: &Event<'_>, order: &mut Order, out: &mut Vec<u8>) {
    let (Event::Begin { id, .. }
    | Event::Params { id, .. }
    | Event::Stdin { id, .. }
    | Event::StdinEndInDoubt { id }
    | Event::StdinEnd { id }
    | Event::Data { id, .. }
    | Event::DataEnd { id }
    | Event::Abort { id }
    | Event::Refused { id, .. }) = *event;
    let id = if decision & 16 == 0 { id } else { order.active.keys().next().copied().unwrap_or(id) };
    if decision & 1 != 0 {
        server.stdout(id, &b"Status: 200\r\n\r\nhello"[..usize::from(decision >> 4)], out);
    }
    if decision & 2 != 0 {
        server.stderr(id, b"careful", out);
    }
    if decision & 4 != 0 {
        let status =
            if decision & 8 == 0 { ProtocolStatus::RequestComplete } else { ProtocolStatus::Overloaded };
        let _ = server.end(id, u32::from(decision), status, out);
        order.ended(id);
    }
}

/// Adds an event to `events`. Returns whether it is a piece of a stream.
fn note(event: &Event<'_>, events: &mut Vec<(String, Vec<u8>)>) -> bool {
    let (line, bytes) = match event {
        Event::Stdin { id, bytes } => (format!("stdin {id}"), *bytes),
        Event::Data { id, bytes } => (format!("data {id}"), *bytes),
        // As bytes, because formatting a list of numbers would take most of the time.
        Event::Params { id, variables } => (format!("params {id}"), variables.encoded()),
        other => (format!("{other:?}"), &b""[..]),
    };
    push_joined(line, bytes, events);
    matches!(event, Event::Stdin { .. } | Event::Data { .. })
}

/// Checks the order of events that [`Event`] guarantees.
#[derive(Debug, Default)]
struct Order {
    active: BTreeMap<u16, Request>,
    /// Ids whose last request ended before its STDIN did.
    unfinished: BTreeSet<u16>,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    role: Role,
    stage: Stage,
    stdin_begun: bool,
    stdin_doubted: bool,
    data_ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Begun,
    Params,
    StdinEnded,
    Over,
}

impl Order {
    fn of(&mut self, id: u16) -> &mut Request {
        self.active.get_mut(&id).unwrap_or_else(|| panic!("{id} has not begun"))
    }

    fn ended(&mut self, id: u16) {
        match self.active.remove(&id) {
            Some(request) if request.stage != Stage::StdinEnded => {
                self.unfinished.insert(id);
            }
            Some(_) => {
                self.unfinished.remove(&id);
            }
            None => {}
        }
    }

    fn check(&mut self, event: &Event<'_>) {
        if let Event::Begin { id, role, .. } = *event {
            assert_ne!(id, 0);
            let (stdin_begun, stdin_doubted) = (false, false);
            let request =
                Request { role, stage: Stage::Begun, stdin_begun, stdin_doubted, data_ended: false };
            assert!(self.active.insert(id, request).is_none(), "{id} begins twice");
            return;
        }
        match event {
            Event::Begin { .. } => {}
            Event::Params { id, variables } => {
                let request = self.of(*id);
                assert_eq!(std::mem::replace(&mut request.stage, Stage::Params), Stage::Begun);
                assert!(variables.iter().all(|(name, value)| !name.contains(&0) && !value.contains(&0)));
            }
            Event::Refused { id, .. } => {
                assert_eq!(std::mem::replace(&mut self.of(*id).stage, Stage::Over), Stage::Begun);
            }
            Event::Stdin { id, bytes } => {
                let request = self.of(*id);
                assert_eq!(request.stage, Stage::Params);
                request.stdin_begun = true;
                assert!(!bytes.is_empty() && request.role != Role::Authorizer);
            }
            Event::StdinEndInDoubt { id } => {
                let request = self.of(*id);
                assert_eq!(request.stage, Stage::Params);
                assert!(!request.stdin_begun && !std::mem::replace(&mut request.stdin_doubted, true));
                assert!(
                    self.unfinished.contains(id),
                    "the last request with this id had not ended its STDIN"
                );
            }
            Event::StdinEnd { id } => {
                assert_eq!(std::mem::replace(&mut self.of(*id).stage, Stage::StdinEnded), Stage::Params);
            }
            Event::Data { id, .. } | Event::DataEnd { id } => {
                let request = self.of(*id);
                assert!(matches!(request.stage, Stage::Params | Stage::StdinEnded));
                assert!(request.role == Role::Filter && !request.data_ended);
                request.data_ended = matches!(event, Event::DataEnd { .. });
            }
            Event::Abort { id } => {
                assert_ne!(std::mem::replace(&mut self.of(*id).stage, Stage::Over), Stage::Over);
            }
        }
    }
}

/// A client accepts every byte of the output, and no record follows the end of a request.
fn understood(out: &[u8]) {
    assert_eq!(out.len() % 8, 0, "output is aligned");
    let (mut decoder, mut input) = (Decoder::new(), out);
    while let Some(reply) = decoder.receive(&mut input).expect("a client accepts all output") {
        if let Reply::Values(values) = reply {
            assert!(values.iter().count() <= 3);
        }
    }
    assert!(decoder.is_between_records());
}
