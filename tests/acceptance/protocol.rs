//! Malformed bytes on the socket: their connection gets the right response or is closed, and a running request on
//! another connection completes.

use crate::support::wire::{
    self, ABORT_REQUEST, BEGIN_REQUEST, Connection, END_REQUEST, GET_VALUES_RESULT, PARAMS, RESPONDER, STDIN,
    begin, get, get_params, pair, record, stream,
};
use crate::support::{Gate, Server};

/// The protocol status FCGI_UNKNOWN_ROLE of END_REQUEST.
const UNKNOWN_ROLE: u8 = 3;

/// A server with a request in flight, which must complete whatever happens on other connections.
struct Neighbour {
    server: Server,
    gate: Gate,
    connection: Connection,
}

impl Neighbour {
    fn start() -> Self {
        let server = Server::start();
        let (connection, gate) = server.hold();
        Self { server, gate, connection }
    }

    fn connect(&self) -> Connection {
        Connection::open(&self.server.socket())
    }

    /// Expects that the server closes a connection that sends `bytes`.
    #[track_caller]
    fn closes_on(&self, what: &str, bytes: &[u8]) {
        let mut connection = self.connect();
        // The server may close before everything is sent.
        let _ = connection.try_send(bytes);
        assert!(connection.closes(), "{what}: the connection stays open");
    }

    #[track_caller]
    fn completes(mut self) {
        self.gate.open("go");
        let response = self.connection.response(1).expect("the neighbour's connection was closed");
        assert_eq!((response.status(), response.body()), (200, &b"waited\n"[..]));
        // The connection can carry another request.
        assert_eq!(self.connection.get("/hello").body(), b"Hello, World!\n");
    }
}

#[test]
fn a_wrong_version_closes_the_connection() {
    let neighbour = Neighbour::start();
    for version in [0, 2, b'G', 0xff] {
        let mut bytes = get(1, "/hello", true);
        bytes[0] = version;
        neighbour.closes_on(&format!("version {version}"), &bytes);
    }
    neighbour.completes();
}

#[test]
fn an_http_request_on_the_fastcgi_socket_closes_the_connection() {
    let neighbour = Neighbour::start();
    neighbour.closes_on("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    neighbour.completes();
}

/// Sends 200 random inputs of `bytes`, each on its own connection, during a request on another connection, which must
/// complete.
#[track_caller]
fn affect_no_other_connection(bytes: impl Fn(&mut fastrand::Rng) -> Vec<u8>) {
    let neighbour = Neighbour::start();
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..200 {
        let bytes = bytes(&mut random);
        let mut connection = neighbour.connect();
        let _ = connection.try_send(&bytes);
        connection.finish_sending();
        assert!(connection.closes());
    }
    neighbour.completes();
}

#[test]
fn random_bytes_affect_no_other_connection() {
    affect_no_other_connection(|random| {
        let mut bytes = vec![0; random.usize(1..4096)];
        random.fill(&mut bytes);
        bytes
    });
}

#[test]
fn a_request_with_random_bytes_changed_affects_no_other_connection() {
    let request = get(1, "/hello", false);
    affect_no_other_connection(|random| {
        let mut bytes = request.clone();
        for _ in 0..random.usize(1..4) {
            let place = random.usize(..bytes.len());
            bytes[place] = random.u8(..);
        }
        bytes
    });
}

#[test]
fn a_connection_that_ends_within_a_request_is_closed() {
    let neighbour = Neighbour::start();
    let request = get(1, "/hello", false);
    for length in (0..request.len()).step_by(7) {
        let mut connection = neighbour.connect();
        connection.send(&request[..length]);
        connection.finish_sending();
        assert!(connection.closes(), "cut after {length} bytes");
    }
    neighbour.completes();
}

#[test]
fn begin_request_with_id_0_or_a_body_of_another_length_closes_the_connection() {
    let neighbour = Neighbour::start();
    neighbour.closes_on("id 0", &get(0, "/hello", true));
    neighbour.closes_on("7 bytes", &record(BEGIN_REQUEST, 1, &[0, 1, 1, 0, 0, 0, 0]));
    neighbour.closes_on("9 bytes", &record(BEGIN_REQUEST, 1, &[0, 1, 1, 0, 0, 0, 0, 0, 0]));
    neighbour.completes();
}

#[test]
fn begin_request_on_an_active_id_closes_the_connection() {
    let neighbour = Neighbour::start();
    let twice = [begin(1, RESPONDER, true), begin(1, RESPONDER, true)].concat();
    neighbour.closes_on("active id", &twice);
    neighbour.completes();
}

#[test]
fn an_unknown_role_is_refused_and_the_connection_stays_open() {
    let neighbour = Neighbour::start();
    let mut connection = neighbour.connect();
    connection.send(&begin(1, 9, true));
    let end = connection.record().expect("a response");
    assert_eq!((end.kind, end.id, end.content[4]), (END_REQUEST, 1, UNKNOWN_ROLE), "{end:?}");
    assert_eq!(connection.get("/hello").body(), b"Hello, World!\n");
    neighbour.completes();
}

/// The status of a request with these PARAMS, and whether the server closes the connection.
fn refused(neighbour: &Neighbour, params: &[u8]) -> (u16, bool) {
    let mut connection = neighbour.connect();
    let request = [begin(1, RESPONDER, true), stream(PARAMS, 1, params), record(STDIN, 1, b"")].concat();
    let _ = connection.try_send(&request);
    let status = connection.response(1).expect("a response").status();
    connection.finish_sending();
    (status, connection.closes())
}

#[test]
fn a_length_past_the_end_of_the_parameters_is_400_and_the_connection_closes() {
    let neighbour = Neighbour::start();
    // A name of 4 bytes, and a value of 2 GiB of which one byte has come.
    let beyond = [&[4, 0xff, 0xff, 0xff, 0xff], &b"NAMEv"[..]].concat();
    assert_eq!(refused(&neighbour, &[get_params("/hello"), beyond].concat()), (400, true));
    // Both lengths at their maximum: their sum does not fit 32 bits.
    assert_eq!(refused(&neighbour, &[0xff; 8]), (400, true));
    neighbour.completes();
}

#[test]
fn a_nul_in_a_parameter_is_400() {
    let neighbour = Neighbour::start();
    assert_eq!(refused(&neighbour, &[get_params("/hello"), pair(b"HTTP_X", b"a\0b")].concat()).0, 400);
    assert_eq!(refused(&neighbour, &[get_params("/hello"), pair(b"A\0B", b"x")].concat()).0, 400);
    neighbour.completes();
}

#[test]
fn a_second_content_length_or_host_that_differs_is_400() {
    let neighbour = Neighbour::start();
    let hosts = [pair(b"HTTP_HOST", b"a.example"), pair(b"HTTP_HOST", b"b.example")].concat();
    assert_eq!(refused(&neighbour, &[get_params("/hello"), hosts].concat()).0, 400);
    let lengths = [pair(b"CONTENT_LENGTH", b"0"), pair(b"CONTENT_LENGTH", b"5")].concat();
    assert_eq!(refused(&neighbour, &[get_params("/hello"), lengths].concat()).0, 400);
    neighbour.completes();
}

#[test]
fn parameters_beyond_max_params_are_431() {
    let neighbour = Neighbour::start();
    let large = pair(b"HTTP_COOKIE", &vec![b'x'; 70_000]);
    assert_eq!(refused(&neighbour, &[get_params("/hello"), large].concat()).0, 431);
    neighbour.completes();
}

#[test]
fn a_content_length_that_is_not_a_number_is_400() {
    let neighbour = Neighbour::start();
    for bad in ["+5", "1,1", "18446744073709551616", "0x10", "5 5", "-2", "five"] {
        let params = [get_params("/hello"), pair(b"CONTENT_LENGTH", bad.as_bytes())].concat();
        assert_eq!(refused(&neighbour, &params).0, 400, "CONTENT_LENGTH {bad:?}");
    }
    neighbour.completes();
}

#[test]
fn a_body_shorter_than_content_length_is_400_and_never_runs() {
    let neighbour = Neighbour::start();
    let ran = Gate::new();
    let params = [get_params(&ran.url("/count")), pair(b"CONTENT_LENGTH", b"10")].concat();
    let request =
        [begin(1, RESPONDER, true), stream(PARAMS, 1, &params), stream(STDIN, 1, b"short")].concat();
    let mut connection = neighbour.connect();
    connection.send(&request);
    assert_eq!(connection.response(1).expect("a response").status(), 400);
    assert_eq!(ran.said("executions"), None);
    neighbour.completes();
}

#[test]
fn a_body_beyond_max_body_is_413() {
    let server = Server::builder().arguments(["--max-body", "1K"]).start();
    let params = [get_params("/echo"), pair(b"CONTENT_LENGTH", b"2000")].concat();
    let request =
        [begin(1, RESPONDER, true), stream(PARAMS, 1, &params), stream(STDIN, 1, &[b'x'; 2000])].concat();
    let mut connection = Connection::open(&server.socket());
    connection.send(&request);
    assert_eq!(connection.response(1).expect("a response").status(), 413);
}

#[test]
fn bytes_beyond_content_length_do_not_reach_the_application() {
    let neighbour = Neighbour::start();
    let params = [get_params("/echo"), pair(b"CONTENT_LENGTH", b"5")].concat();
    let request =
        [begin(1, RESPONDER, true), stream(PARAMS, 1, &params), stream(STDIN, 1, b"12345678")].concat();
    let mut connection = neighbour.connect();
    connection.send(&request);
    assert_eq!(connection.response(1).expect("a response").body(), b"12345");
    neighbour.completes();
}

#[test]
fn records_with_inactive_request_ids_are_ignored() {
    let neighbour = Neighbour::start();
    let mut connection = neighbour.connect();
    connection.send(&record(STDIN, 7, b"late"));
    connection.send(&record(ABORT_REQUEST, 8, b""));
    connection.send(&record(99, 9, b"unknown type"));
    assert_eq!(connection.get("/hello").body(), b"Hello, World!\n");
    neighbour.completes();
}

#[test]
fn a_request_id_can_be_reused_after_end_request() {
    let server = Server::start();
    let mut connection = Connection::open(&server.socket());
    for _ in 0..100 {
        assert_eq!(connection.get("/hello").body(), b"Hello, World!\n");
    }
}

#[test]
fn without_keep_conn_the_connection_is_closed_after_the_response() {
    let server = Server::start();
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, "/hello", false));
    assert_eq!(connection.response(1).expect("a response").body(), b"Hello, World!\n");
    assert!(connection.closes());
}

#[test]
fn a_later_request_on_a_connection_can_be_answered_first() {
    let server = Server::start();
    let (mut connection, gate) = server.hold();
    connection.send(&get(2, "/hello", true));
    assert_eq!(connection.response(2).expect("the second response").body(), b"Hello, World!\n");
    gate.open("go");
    assert_eq!(connection.response(1).expect("the first response").body(), b"waited\n");
}

#[test]
fn abort_request_is_answered_before_the_application_returns() {
    let server = Server::start();
    let (mut connection, gate) = server.hold();
    connection.send(&record(ABORT_REQUEST, 1, b""));
    // The application still waits at its gate.
    connection.response(1).expect("the end of the aborted request");
    gate.open("go");
    assert_eq!(connection.get("/hello").body(), b"Hello, World!\n");
}

#[test]
fn get_values_within_a_request_is_answered() {
    let server = Server::start();
    let mut connection = Connection::open(&server.socket());
    connection.send(&begin(1, RESPONDER, true));
    let names = ["FCGI_MPXS_CONNS", "FCGI_MAX_REQS", "FCGI_UNHEARD_OF"];
    let query: Vec<u8> = names.iter().flat_map(|name| pair(name.as_bytes(), b"")).collect();
    connection.send(&record(wire::GET_VALUES, 0, &query));
    let answer = connection.record().expect("a response");
    assert_eq!((answer.kind, answer.id), (GET_VALUES_RESULT, 0));
    let text = String::from_utf8_lossy(&answer.content).into_owned();
    assert!(text.contains("FCGI_MPXS_CONNS1") && text.contains("FCGI_MAX_REQS"), "{text:?}");
    assert!(!text.contains("UNHEARD"), "{text:?}");
    connection.send(&stream(PARAMS, 1, &get_params("/hello")));
    connection.send(&record(STDIN, 1, b""));
    assert_eq!(connection.response(1).expect("a response").body(), b"Hello, World!\n");
}

/// More than the gateway handles in one turn, in records so small that a turn ends within the bytes of one read.
#[test]
fn a_flood_of_small_records_is_answered_completely_and_in_order() {
    const ROUNDS: u16 = 8000;
    let server = Server::start();
    let mut connection = Connection::open(&server.socket());
    let question = record(wire::GET_VALUES, 0, &pair(b"FCGI_MPXS_CONNS", b""));
    let flood: Vec<u8> = (1..=ROUNDS)
        .flat_map(|id| {
            [begin(id, RESPONDER, true), record(ABORT_REQUEST, id, b""), question.clone()].concat()
        })
        .collect();
    let mut sender = connection.sender();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            sender.send(&flood);
            sender.send(&get(1, "/hello", true));
            // Records that have been read but not handled yet are answered after this half-close, too.
            sender.finish_sending();
        });
        for id in 1..=ROUNDS {
            let end = connection.response(id).expect("the end of the request");
            assert_eq!((end.stdout.len(), end.protocol_status), (0, 0), "request {id}");
            let answer = connection.record().expect("a response");
            assert_eq!((answer.kind, answer.id), (GET_VALUES_RESULT, 0), "after request {id}");
        }
        assert_eq!(connection.response(1).expect("a response").body(), b"Hello, World!\n");
        assert!(connection.record().is_none(), "no record follows the last response");
    });
}

#[test]
fn a_thousand_half_requests_delay_no_other_request() {
    let neighbour = Neighbour::start();
    let half = begin(1, RESPONDER, true);
    let connections: Vec<Connection> = (0..1000)
        .map(|_| {
            let mut connection = neighbour.connect();
            connection.send(&half);
            connection
        })
        .collect();
    assert_eq!(neighbour.connect().get("/hello").body(), b"Hello, World!\n");
    drop(connections);
    neighbour.completes();
}
