//! Management records (FastCGI 1.0 §4): GET_VALUES and UNKNOWN_TYPE.

use super::super::*;

#[test]
fn c22_c23_values_are_answered_at_any_time_and_the_connection_lives() {
    let limits = Limits { server_connections: 10, server_requests: 20, ..Limits::default() };
    let names = ["FCGI_MPXS_CONNS", "FCGI_MAX_REQS", "NO_SUCH", "FCGI_MAX_CONNS", "FCGI_MAX_REQS"];
    let wire = Wire::new()
        .get_values(&names)
        .begin(1)
        .get_values(&["FCGI_MAX_REQS"])
        .params(1, &[])
        .get_values(&["NO_SUCH"])
        .stdin(1, b"x")
        .get_values(&[])
        .stdin_end(1);
    let outcome = check_within(limits, &wire.0, wait);
    let all = "values FCGI_MAX_CONNS=10 FCGI_MAX_REQS=20 FCGI_MPXS_CONNS=1";
    assert_eq!(outcome.replies, [all, "values FCGI_MAX_REQS=20", "values", "values"]);
    assert_eq!(outcome.seen, ["begin 1 Responder keep=true", "params 1", "stdin 1 x", "stdin end 1"]);
}

#[test]
fn c22_max_reqs_is_not_more_than_one_connection_takes() {
    let limits = Limits { server_requests: 5000, ..Limits::default() };
    let outcome = check_within(limits, &Wire::new().get_values(&["FCGI_MAX_REQS"]).0, wait);
    assert_eq!(outcome.replies, ["values FCGI_MAX_REQS=64"]);
}

#[test]
fn c22_values_are_bounded() {
    let many = vec!["FCGI_MAX_CONNS"; 64];
    let outcome = check(&Wire::new().get_values(&many).0, wait);
    assert_eq!(outcome.replies.len(), 1, "64 times 16 bytes are within the limit");
    assert!(outcome.out.len() < 64, "each name once");
    let outcome = check(&Wire::new().raw(9, 0, &[0; 1025], 0).0, wait);
    assert_eq!(outcome.fault, Some(Fault::GetValuesLength(1025)));
    let outcome = check(&Wire::new().raw(9, 0, b"\x05\0NAM", 0).0, wait);
    assert_eq!(outcome.fault, Some(Fault::GetValuesTruncated));
}

#[test]
fn c24_unknown_management_types_are_answered_and_the_connection_lives() {
    let wire =
        Wire::new().raw(12, 0, b"", 0).begin(1).raw(255, 0, b"content", 9).raw(0, 0, b"", 0).params(1, &[]);
    let outcome = check(&wire.0, wait);
    assert_eq!(outcome.replies, ["unknown type 12", "unknown type 255", "unknown type 0"]);
    assert_eq!(outcome.seen.len(), 2);
    assert_eq!(outcome.out[..16], [1, 11, 0, 0, 0, 8, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0]);
}
