//! The properties of `check/` on generated inputs: a short version of `fuzz/`, with the same inputs in every run. The
//! generators make mostly valid inputs, because random bytes alone are rejected early.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed, and so has a property")]

mod check;

use nibiru::cgi::response::MAX_HEAD;
use nibiru::fastcgi::record::{Header, RecordType};
use nibiru::fastcgi::{Limits, ProtocolStatus, Role, Server, client, params};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;

/// A configuration with fixed inputs and without files. A failure prints the input after shrinking.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0x6e69_6269_7275),
        ..Default::default()
    }
}

/// Bytes followed by controls, which `check` removes.
fn controlled(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (bytes, vec(any::<u8>(), 0..16)).prop_map(|(bytes, controls)| {
        let count = u8::try_from(controls.len()).unwrap();
        [bytes, controls, vec![count]].concat()
    })
}

/// Bytes with some changes: mostly still valid, and so better at reaching deep code than garbage.
fn damaged(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (bytes, vec((any::<Index>(), any::<u8>()), 0..8)).prop_map(|(mut bytes, changes)| {
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes
    })
}

fn garbage() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![4 => 0_u8..12, 1 => any::<u8>()], 0..600)
}

/// Encoded pairs with random lengths of names and values.
fn pairs() -> impl Strategy<Value = Vec<u8>> {
    let length = || prop_oneof![4 => 0_usize..20, 1 => 120_usize..300];
    vec((length(), length(), any::<bool>()), 0..20).prop_map(|pairs| {
        let mut bytes = Vec::new();
        for (name, value, harmful) in pairs {
            // Some values contain NUL.
            let fill = if harmful && value % 16 == 7 { 0 } else { b'v' };
            params::encode(&vec![b'N'; name], &vec![fill; value], &mut bytes);
        }
        bytes
    })
}

fn record(kind: RecordType, id: u16, content: &[u8], padding: u8) -> Vec<u8> {
    let content_length = u16::try_from(content.len()).unwrap();
    let header = Header { record_type: kind, request_id: id, content_length, padding_length: padding };
    [&header.encode()[..], content, &vec![0xee; padding.into()]].concat()
}

/// The records of one request, complete or aborted by its client.
fn request(id: u16) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let role = select(vec![Role::Responder, Role::Authorizer, Role::Filter]);
    let body = prop_oneof![3 => vec(any::<u8>(), 0..100), 1 => vec(any::<u8>(), 0..3000)];
    let sizes = vec((1_usize..700, any::<u8>()), 1..6);
    (role, any::<bool>(), pairs(), body, sizes, 0..20_u8, any::<bool>()).prop_map(
        move |(role, keep_open, pairs, body, sizes, ending, values)| {
            let mut records = vec![Vec::new()];
            client::begin(id, role, keep_open, &mut records[0]);
            let streams =
                [(RecordType::Params, &pairs), (RecordType::Stdin, &body), (RecordType::Data, &body)];
            let mut sizes = sizes.iter().cycle();
            for (kind, stream) in &streams[..if role == Role::Filter { 3 } else { 2 }] {
                let mut rest = &stream[..];
                while !rest.is_empty() {
                    let (size, padding) = sizes.next().unwrap();
                    let (part, left) = rest.split_at(rest.len().min(*size));
                    records.push(record(*kind, id, part, *padding));
                    rest = left;
                }
                if ending == 0 {
                    return records;
                }
                records.push(record(*kind, id, b"", sizes.next().unwrap().1));
            }
            let mut last = Vec::new();
            if ending < 3 {
                client::abort(id, &mut last);
            }
            if values {
                client::get_values(&["FCGI_MAX_CONNS", "OTHER"], &mut last);
            }
            records.push(last);
            records
        },
    )
}

/// Requests with interleaved records.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let scripts = vec(any::<u8>(), 1..6).prop_flat_map(|ids| {
        let scripts: Vec<_> = (1..).zip(ids).map(|(id, _)| request(id)).collect();
        (scripts, vec(any::<Index>(), 60))
    });
    scripts.prop_map(|(mut scripts, choices)| {
        scripts.iter_mut().for_each(|script| script.reverse());
        let (mut bytes, mut choices) = (Vec::new(), choices.iter().cycle());
        while !scripts.is_empty() {
            let chosen = choices.next().unwrap().index(scripts.len());
            match scripts[chosen].pop() {
                Some(record) => bytes.extend(record),
                None => drop(scripts.swap_remove(chosen)),
            }
        }
        bytes
    })
}

/// The output of the product's server: responses of all kinds.
fn responses() -> impl Strategy<Value = Vec<u8>> {
    vec((vec(any::<u8>(), 0..200), vec(any::<u8>(), 0..20), any::<u32>(), 0..4_u8), 1..6).prop_map(
        |responses| {
            let (mut server, mut out) = (Server::new(Limits::default()), Vec::new());
            for (id, (stdout, stderr, app_status, kind)) in (1..).zip(responses) {
                let mut request = Vec::new();
                client::begin(id, Role::Responder, true, &mut request);
                client::get_values(&["FCGI_MPXS_CONNS"], &mut request);
                request.extend(record(RecordType::Other(kind + 12), 0, b"what?", 3));
                let mut input = &request[..];
                while server.receive(&mut input, &mut out).unwrap().is_some() {}
                server.stdout(id, &stdout, &mut out);
                server.stderr(id, &stderr, &mut out);
                let status = ProtocolStatus::from_byte(kind).unwrap();
                let _ = server.end(id, app_status, status, &mut out);
            }
            out
        },
    )
}

fn response_heads() -> impl Strategy<Value = Vec<u8>> {
    let line = select(vec![
        "Status: 200 OK",
        "Status:404  Not Found ",
        "Status: 99",
        "Content-Length: 5",
        "content-length: x",
        "Location: /x",
        "Content-Type: text/html",
        "X:",
        "X: \t y\tz ",
        "X: a\rb",
        "X: a\0",
        "Set-Cookie: a=b; c",
        " folded",
        "no colon",
        ": none",
        "A B: c",
        "Transfer-Encoding: chunked",
        "",
    ]);
    let end = select(vec!["\r\n", "\n", "\r\r\n", "\r"]);
    let lines = vec((line, prop_oneof![9 => Just("\r\n"), 3 => Just("\n"), 1 => end]), 0..8);
    let long = prop_oneof![30 => Just(0_usize), 1 => MAX_HEAD - 40..MAX_HEAD + 10];
    (lines, long, any::<bool>()).prop_map(|(lines, long, whole)| {
        let mut head: String = lines.into_iter().flat_map(|(line, end)| [line, end]).collect();
        if long > 0 {
            head = format!("X: {}\r\n{head}", "x".repeat(long));
        }
        if whole {
            head.push_str("\r\nbody");
        }
        head.into_bytes()
    })
}

fn request_heads() -> impl Strategy<Value = Vec<u8>> {
    let name = select(vec![
        "REQUEST_METHOD",
        "REQUEST_METHOD",
        "CONTENT_LENGTH",
        "HTTP_PROXY",
        "Http-Proxy",
        "HTTP_X_A",
        "HTTP_X-A",
        "http_x_a",
        "HTTPS",
        "REMOTE_ADDR",
        "SCRIPT_NAME",
        "script_name",
        "HTTP_COOKIE",
        "HTTP_Cookie",
        "HTTP_VIA",
        "HTTP_HOST",
        "",
    ]);
    let value = select(vec![
        "GET",
        "HEAD",
        "G T",
        "",
        "-1",
        "0",
        "42",
        "+5",
        "1,1",
        "18446744073709551616",
        "on",
        "caf\u{e9}",
    ]);
    (vec((name, value), 0..6), any::<bool>()).prop_map(|(pairs, method)| {
        let mut bytes = Vec::new();
        if method {
            params::encode(b"REQUEST_METHOD", b"POST", &mut bytes);
        }
        for (name, value) in pairs {
            params::encode(name.as_bytes(), value.as_bytes(), &mut bytes);
        }
        bytes
    })
}

/// Acts for `check::worker_messages`: a mostly honest worker that sometimes sends other messages.
fn worker_packets() -> impl Strategy<Value = Vec<u8>> {
    // Numbers of acts and messages, as in `check::worker_messages`.
    const READY: u8 = 0;
    let message = |kind: u8, variant: u8| variant << 4 | kind;
    let packet = |messages: Vec<u8>| {
        let count = u8::try_from(messages.len()).unwrap();
        [vec![1, count], messages].concat()
    };
    let answer = (0..8_u8, vec(1..6_u8, 0..4), 0..6_u8).prop_map(move |(head, bodies, end)| {
        let bodies = bodies.into_iter().map(|length| message(4, length));
        let end = if end == 5 { vec![] } else { vec![message(7, end), READY] };
        packet([message(1, head)].into_iter().chain(bodies).chain(end).collect())
    });
    let any_packet = vec((0..12_u8, 0..16_u8), 0..8).prop_map(move |messages| {
        packet(messages.into_iter().map(|(kind, variant)| message(kind, variant)).collect())
    });
    let act = prop_oneof![
        12 => answer,
        1 => any_packet,
        1 => vec(any::<u8>(), 0..30).prop_map(|bytes| [&[0, u8::try_from(bytes.len()).unwrap()], &bytes[..]].concat()),
        1 => (6..13_u8, any::<u8>()).prop_map(|(act, variant)| vec![act, variant]),
    ];
    (vec(act, 0..12), any::<u8>()).prop_map(move |(acts, method)| {
        let mut bytes = packet(vec![READY]);
        for act in acts {
            bytes.extend([5, method]);
            bytes.extend(act);
        }
        bytes
    })
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn requests_give_the_same_events_and_output_in_any_split(data in controlled(requests())) {
        check::connection(&data);
    }

    #[test]
    fn damaged_requests_cause_no_panic_no_growth_and_no_hang(data in controlled(damaged(requests()))) {
        check::connection(&data);
    }

    #[test]
    fn a_client_decodes_responses_the_same_in_any_split(data in controlled(prop_oneof![responses(), damaged(responses()), garbage()])) {
        check::client(&data);
        check::records(&data);
    }
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn random_bytes_cause_no_panic_no_growth_and_no_hang(data in controlled(garbage())) {
        check::connection(&data);
    }

    #[test]
    fn pairs_are_decoded_the_same_in_any_split(data in controlled(prop_oneof![pairs(), damaged(pairs()), garbage()])) {
        check::params(&data);
    }

    #[test]
    fn an_accepted_response_head_cannot_split_a_response(data in prop_oneof![response_heads(), damaged(response_heads())]) {
        check::response_head(&data);
    }

    #[test]
    fn an_accepted_request_head_is_unambiguous(data in prop_oneof![request_heads(), damaged(request_heads())]) {
        check::request_head(&data);
    }
}

proptest! {
    #![proptest_config(config(10_000))]

    #[test]
    fn clients_of_a_hostile_worker_get_one_complete_response_or_a_visible_break(data in worker_packets()) {
        check::worker_messages(&data);
    }
}
