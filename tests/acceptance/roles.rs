//! The roles Authorizer and Filter, on the wire.

use crate::support::wire::{
    AUTHORIZER, Connection, DATA, END_REQUEST, FILTER, PARAMS, Response, STDIN, STDOUT, begin, get, pairs,
    record, stream,
};
use crate::support::{Gate, Server, ServerBuilder, repository};

fn builder() -> ServerBuilder {
    Server::builder().application(repository("tests/apps"), "roles")
}

/// An authorizer request as mod_fcgid and Apache send it: without a STDIN record.
fn authorizer(params: &[(&str, &str)]) -> Vec<u8> {
    [begin(1, AUTHORIZER, true), stream(PARAMS, 1, &pairs(params))].concat()
}

fn authorizer_of(uri: &str) -> Vec<u8> {
    authorizer(&[("REQUEST_METHOD", "GET"), ("REQUEST_URI", uri), ("SERVER_PROTOCOL", "HTTP/1.1")])
}

#[track_caller]
fn response_to(connection: &mut Connection, request: &[u8]) -> Response {
    connection.send(request);
    connection.response(1).expect("a response")
}

/// A filter request with the variables `params` in addition to the method.
fn filter(params: &[(&str, &str)], body: &[u8], data: &[u8]) -> Vec<u8> {
    let params = [&pairs(&[("REQUEST_METHOD", "POST")])[..], &pairs(params)].concat();
    [begin(1, FILTER, true), stream(PARAMS, 1, &params), stream(STDIN, 1, body), stream(DATA, 1, data)]
        .concat()
}

#[test]
fn a_grant_is_a_status_and_variables_only() {
    let server = builder().start();
    let mut connection = Connection::open(&server.socket());
    let grant = "Status: 200 OK\r\nVariable-REMOTE_USER: alice\r\nVariable-TEST_SEEN: AUTHORIZER,bob\r\n\r\n";
    let seen = [("REQUEST_METHOD", "GET"), ("FCGI_APACHE_ROLE", "AUTHORIZER"), ("REMOTE_USER", "bob")];
    for _ in 0..2 {
        let response = response_to(&mut connection, &authorizer(&seen));
        assert_eq!(String::from_utf8_lossy(&response.stdout), grant);
        assert_eq!((response.app_status, response.protocol_status), (0, 0));
    }
    // STDIN records, which other clients send, are ignored, and the connection can carry a responder request.
    connection.send(&authorizer_of("/open"));
    connection.send(&record(STDIN, 1, b""));
    assert_eq!(connection.response(1).expect("a response").status(), 200);
    assert!(connection.get("/").body().starts_with(b"GATEWAY_INTERFACE=CGI/1.1\n"));
}

#[test]
fn an_authorizer_request_without_method_path_or_address_is_logged_with_dashes() {
    let directory = tempfile::tempdir().unwrap();
    let access_log = directory.path().join("access.log");
    let path = access_log.display().to_string();
    let server = builder().arguments(["--access-log", &path]).start();
    let mut connection = Connection::open(&server.socket());
    assert_eq!(response_to(&mut connection, &authorizer(&[])).status(), 200);
    assert_eq!(response_to(&mut connection, &authorizer(&[("REQUEST_URI", "/error")])).status(), 500);
    server.logged(&["ERROR", "- /error - (request ", "the authorizer fails"]);
    // The stop would give this client the time to end its request.
    drop(connection);
    drop(server);
    let lines = std::fs::read_to_string(access_log).unwrap();
    assert!(lines.contains("\"-\" 200 0 ") && lines.contains("\" /error\" 500 "), "{lines}");
}

#[test]
fn a_denial_is_a_complete_response_in_one_record_without_variables() {
    let server = builder().start();
    let mut connection = Connection::open(&server.socket());
    connection.send(&authorizer_of("/login"));
    let first = connection.record().expect("a response");
    let text = String::from_utf8_lossy(&first.content);
    let expected = "Status: 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"nibiru\"\r\nContent-Type: text/plain; \
                    charset=utf-8\r\nContent-Length: 13\r\n\r\nWho are you?\n";
    assert_eq!((first.kind, &*text), (STDOUT, expected));
    let end = connection.record().expect("the end of STDOUT");
    assert_eq!((end.kind, end.content.len()), (STDOUT, 0));
    assert_eq!(connection.record().expect("END_REQUEST").kind, END_REQUEST);
}

/// lighttpd grants access on END_REQUEST without output, so every denial needs output.
#[test]
fn a_failing_authorizer_denies_with_a_complete_response() {
    let server = builder().workers("1").arguments(["--queue", "1"]).start();
    for (uri, status) in [
        ("/forbidden", 403),
        ("/error", 500),
        ("/late", 500),
        ("/nowhere", 404),
        ("/killed", 502),
        ("/unfinished", 502),
    ] {
        let response = response_to(&mut Connection::open(&server.socket()), &authorizer_of(uri));
        assert_eq!(response.status(), status, "{uri}: {response:?}");
        assert!(
            !response.body().is_empty() && response.header("Variable-REMOTE_USER").is_none(),
            "{response:?}"
        );
    }
    // Requests that never reach Lua: refused variables, and a full queue.
    let twice = authorizer(&[("HTTP_AUTHORIZATION", "a"), ("HTTP_AUTHORIZATION", "b")]);
    assert_eq!(response_to(&mut Connection::open(&server.socket()), &twice).status(), 400);
    let [mut running, mut waiting, mut refused] = [(); 3].map(|()| Connection::open(&server.socket()));
    let gate = Gate::new();
    let url = gate.url("/busy");
    let query = url.split_once('?').unwrap().1;
    let busy = authorizer(&[("REQUEST_URI", &url), ("QUERY_STRING", query)]);
    running.send(&busy);
    gate.announced("busy");
    waiting.send(&authorizer_of("/open"));
    waiting.settle();
    assert_eq!(response_to(&mut refused, &authorizer_of("/open")).status(), 503);
    gate.open("go");
    assert_eq!(running.response(1).expect("a response").status(), 200);
    assert_eq!(waiting.response(1).expect("a response").status(), 200);
}

#[test]
fn an_authorizer_beyond_its_deadline_denies() {
    let server = builder().arguments(["--request-timeout", "100ms", "--kill-after", "100ms"]).start();
    let gate = Gate::new();
    let url = gate.url("/busy");
    let query = url.split_once('?').unwrap().1;
    let busy = authorizer(&[("REQUEST_URI", &url), ("QUERY_STRING", query)]);
    assert_eq!(response_to(&mut Connection::open(&server.socket()), &busy).status(), 504);
    gate.open("go");
}

/// A status page with 200 would grant access to its path.
#[test]
fn the_status_path_grants_no_access() {
    let server = builder().arguments(["--status-path", "/-/status"]).start();
    let mut connection = Connection::open(&server.socket());
    let params = [("REQUEST_METHOD", "GET"), ("REQUEST_URI", "/-/status"), ("PATH_INFO", "/-/status")];
    assert_eq!(response_to(&mut connection, &authorizer(&params)).status(), 404);
    assert_eq!(connection.get("/-/status").status(), 200);
}

#[test]
fn a_filter_reads_body_and_data_from_memory_and_from_files() {
    let server = builder().start();
    let mut connection = Connection::open(&server.socket());
    // Sizes below and above the limit in memory, which is half as much for each of the two.
    for body in [0, 5, 40_000, 300_000] {
        for data in [0, 5, 40_000, 300_000] {
            let (body, data) = ("b".repeat(body), "d".repeat(data));
            let (lengths, of) =
                ([body.len().to_string(), data.len().to_string()], format!("{body}|{}|7", data.len()));
            let known = [
                ("CONTENT_LENGTH", &*lengths[0]),
                ("FCGI_DATA_LENGTH", &*lengths[1]),
                ("FCGI_DATA_LAST_MOD", "7"),
            ];
            for params in [&known[..], &known[2..]] {
                let response =
                    response_to(&mut connection, &filter(params, body.as_bytes(), data.as_bytes()));
                assert_eq!(response.status(), 200, "{response:?}");
                assert_eq!(response.header("X-Of").as_deref(), Some(&of[..of.len().min(100)]));
                assert_eq!(response.header("X-Body"), Some(of.len().to_string()));
                assert!(response.body() == data.to_uppercase().as_bytes(), "{} bytes", response.body().len());
            }
        }
    }
    assert_eq!(connection.get("/").status(), 200);
}

#[test]
fn max_params_with_body_and_data_in_memory_fit_a_packet() {
    let server = builder().arguments(["--max-params", "120K"]).start();
    let mut connection = Connection::open(&server.socket());
    let (long, half) = ("v".repeat(119 * 1024), vec![b'x'; 32 * 1024]);
    assert_eq!(response_to(&mut connection, &filter(&[("HTTP_LONG", &long)], &half, &half)).status(), 200);
    let more = vec![b'x'; 64 * 1024];
    assert_eq!(response_to(&mut connection, &filter(&[("HTTP_LONG", &long)], &more, &more)).status(), 200);
}

#[test]
fn data_may_come_before_the_body_has_ended() {
    let server = builder().start();
    let mut connection = Connection::open(&server.socket());
    let params = pairs(&[("REQUEST_METHOD", "POST")]);
    connection.send(&[begin(1, FILTER, true), stream(PARAMS, 1, &params)].concat());
    connection.send(&[record(STDIN, 1, b"bo"), stream(DATA, 1, b"data"), record(STDIN, 1, b"dy")].concat());
    connection.settle();
    let response = response_to(&mut connection, &record(STDIN, 1, b""));
    assert_eq!((response.header("X-Of").as_deref(), response.body()), (Some("body|4|nil"), &b"DATA"[..]));
}

#[test]
fn a_filter_request_is_complete_with_the_announced_lengths_of_both_streams() {
    let server = builder().start();
    let begun = |length: &str, data_length: &str| {
        let lengths = pairs(&[
            ("REQUEST_METHOD", "POST"),
            ("CONTENT_LENGTH", length),
            ("FCGI_DATA_LENGTH", data_length),
        ]);
        [begin(1, FILTER, true), stream(PARAMS, 1, &lengths)].concat()
    };
    let mut connection = Connection::open(&server.socket());
    // Without the end of either stream, in either order.
    for order in [[(STDIN, &b"body"[..]), (DATA, b"data")], [(DATA, b"data"), (STDIN, b"body")]] {
        let [first, second] = order.map(|(kind, bytes)| record(kind, 1, bytes));
        connection.send(&[begun("4", "4"), first].concat());
        connection.settle();
        let response = response_to(&mut connection, &second);
        assert_eq!((response.header("X-Of").as_deref(), response.body()), (Some("body|4|nil"), &b"DATA"[..]));
    }
    assert_eq!(response_to(&mut connection, &begun("0", "0")).body(), b"");
    // A proxy may withhold the body, but not the data.
    let mut connection = Connection::open(&server.socket());
    let kept = [begun("4", "4"), record(STDIN, 1, b""), record(DATA, 1, b"data")].concat();
    assert_eq!(response_to(&mut connection, &kept).body(), b"DATA");
    let none = [begun("0", "4"), record(DATA, 1, b"")].concat();
    let response = response_to(&mut connection, &none);
    assert_eq!(response.body(), b"400 Bad Request: the data to filter ended after 0 of 4 bytes\n");
}

#[test]
fn the_data_of_a_filter_have_the_limits_of_a_body() {
    let server = builder().arguments(["--max-body", "1000"]).start();
    let data = |params: &[(&str, &str)], data: &[u8]| {
        let response = response_to(&mut Connection::open(&server.socket()), &filter(params, b"", data));
        let message = String::from_utf8_lossy(response.body()).trim_end().to_owned();
        (response.status(), message)
    };
    let (status, message) = data(&[("FCGI_DATA_LENGTH", "5")], b"abc");
    assert_eq!((status, &*message), (400, "400 Bad Request: the data to filter ended after 3 of 5 bytes"));
    assert_eq!(data(&[("FCGI_DATA_LENGTH", "3")], b"abcde"), (200, "ABC".to_owned()));
    let (status, message) = data(&[("FCGI_DATA_LENGTH", "+5")], b"abcde");
    assert_eq!((status, &*message), (400, "400 Bad Request: FCGI_DATA_LENGTH is not a length: \"+5\""));
    let more = "413 Content Too Large: the data to filter has";
    let (status, message) = data(&[("FCGI_DATA_LENGTH", "1001")], &[b'x'; 1001]);
    assert_eq!((status, &*message), (413, &*format!("{more} 1001 bytes, --max-body is 1000")));
    let (status, message) = data(&[], &[b'x'; 1001]);
    assert_eq!((status, &*message), (413, &*format!("{more} more than 1000 bytes (--max-body)")));
    // The limit applies to each of the two.
    let full =
        response_to(&mut Connection::open(&server.socket()), &filter(&[], &[b'b'; 1000], &[b'd'; 1000]));
    assert_eq!((full.status(), full.body().len()), (200, 1000));
}

#[test]
fn the_data_of_a_filter_count_for_max_spool() {
    let server = builder().arguments(["--max-spool", "150000"]).start();
    let mut connection = Connection::open(&server.socket());
    let one = vec![b'x'; 100_000];
    assert_eq!(response_to(&mut connection, &filter(&[], &one, b"")).status(), 200);
    assert_eq!(response_to(&mut connection, &filter(&[], b"", &one)).status(), 200);
    assert_eq!(response_to(&mut Connection::open(&server.socket()), &filter(&[], &one, &one)).status(), 503);
    // The spool is empty again.
    assert_eq!(response_to(&mut connection, &filter(&[], b"", &one)).status(), 200);
}

#[test]
fn requests_of_all_roles_share_a_connection() {
    let server = builder().start();
    let mut connection = Connection::open(&server.socket());
    let numbered = |request: Vec<u8>, id: u8| {
        let mut request = request;
        let mut at = 0;
        while at < request.len() {
            request[at + 3] = id;
            at += 8 + usize::from(u16::from_be_bytes([request[at + 4], request[at + 5]]));
        }
        request
    };
    connection.send(&numbered(filter(&[], b"body", b"data"), 3));
    connection.send(&numbered(authorizer_of("/open"), 2));
    connection.send(&get(1, "/", true));
    let mut outputs = [const { Vec::new() }; 3];
    let mut ended = 0;
    while ended < 3 {
        let record = connection.record().expect("a record");
        match record.kind {
            END_REQUEST => ended += 1,
            _ => outputs[usize::from(record.id) - 1].extend(record.content),
        }
    }
    let [responder, authorizer, filter] = outputs.map(|output| String::from_utf8(output).unwrap());
    assert!(responder.contains("nibiru.role=responder\n"), "{responder}");
    assert!(authorizer.contains("Variable-REMOTE_USER: alice\r\n"), "{authorizer}");
    assert!(filter.ends_with("\r\n\r\nDATA"), "{filter}");
}
