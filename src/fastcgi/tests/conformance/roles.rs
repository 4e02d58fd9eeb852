//! Roles (FastCGI 1.0 §6): Authorizer and Filter.

use super::super::*;

#[test]
fn c20_an_authorizer_has_no_body_with_or_without_a_stdin_record() {
    let expected = ["begin 1 Authorizer keep=true", "params 1 A=1", "stdin end 1"];
    let wire = || Wire::new().begin_as(1, Role::Authorizer, true).params(1, &[("A", "1")]);
    for wire in [wire(), wire().stdin_end(1), wire().stdin(1, b"body").stdin_end(1)] {
        assert_eq!(check(&wire.0, wait).seen, expected);
        let outcome = check(&wire.request(1).0, answer);
        assert_eq!((outcome.seen.len(), outcome.fault), (8, None));
    }
}

#[test]
fn c20_an_authorizer_that_is_ended_at_once_has_no_further_event() {
    fn deny(server: &mut Server, event: &Event<'_>, out: &mut Vec<u8>) -> Option<AfterEnd> {
        let Event::Params { id, .. } = event else { return None };
        Some(server.end(*id, 0, ProtocolStatus::RequestComplete, out))
    }
    let outcome = check(&Wire::new().begin_as(1, Role::Authorizer, false).params(1, &[]).0, deny);
    assert_eq!(outcome.seen[1..], ["params 1", "Close"]);
}

#[test]
fn c21_a_filter_gets_stdin_then_data() {
    let mut wire = Wire::new()
        .begin_as(1, Role::Filter, true)
        .params(1, &[("FCGI_DATA_LENGTH", "4"), ("FCGI_DATA_LAST_MOD", "0")])
        .stdin(1, b"in")
        .stdin_end(1);
    client::data(1, b"file", &mut wire.0);
    client::data_end(1, &mut wire.0);
    client::data(1, b"late", &mut wire.0);
    let expected = [
        "begin 1 Filter keep=true",
        "params 1 FCGI_DATA_LENGTH=4 FCGI_DATA_LAST_MOD=0",
        "stdin 1 in",
        "stdin end 1",
        "data 1 file",
        "data end 1",
    ];
    assert_eq!(check(&wire.0, wait).seen, expected);
    let wire = Wire::new().request(1).raw(DATA, 1, b"no file", 0).raw(DATA, 1, b"", 0);
    assert_eq!(check(&wire.0, wait).seen.len(), 3, "a Responder gets no DATA");
}
