//! The client side: replies that are read, and refused.

use super::*;

#[test]
fn a_client_breaks_off_at_an_invalid_record() {
    let (mut server, mut out) = (Server::new(Limits::default()), Vec::new());
    server.receive(&mut &Wire::new().begin(1).0[..], &mut out).unwrap();
    server.stdout(1, b"half a bo", &mut out);
    server.break_off(&mut out);
    assert!(server.is_idle() && server.has_unfinished());
    let (mut decoder, mut input) = (client::Decoder::new(), &out[..]);
    assert!(matches!(decoder.receive(&mut input), Ok(Some(client::Reply::Stdout { .. }))));
    assert_eq!(decoder.receive(&mut input), Err(client::Fault::BadVersion(0)));
}

#[test]
fn a_client_refuses_answers_that_make_no_sense() {
    let decode = |wire: Wire| client::Decoder::new().receive(&mut &wire.0[..]).map(|_| ());
    assert_eq!(decode(Wire::new().raw(3, 1, &[0; 7], 0)), Err(client::Fault::BodyLength(7)));
    assert_eq!(decode(Wire::new().raw(11, 0, b"", 0)), Err(client::Fault::BodyLength(0)));
    let undefined = Wire::new().raw(3, 1, &[0, 0, 0, 0, 4, 0, 0, 0], 0);
    assert_eq!(decode(undefined), Err(client::Fault::ProtocolStatus(4)));
    assert_eq!(decode(Wire::new().raw(10, 0, b"\x05\x01A", 0)), Err(client::Fault::ValuesTruncated));
    assert_eq!(decode(Wire::new().raw(77, 3, b"what", 0).raw(6, 1, b"", 0)), Ok(()));
}

#[test]
fn a_client_reads_replies_in_any_split() {
    let wire = Wire::new().get_values(&["FCGI_MAX_REQS"]).raw(99, 0, b"", 0).request(1).request(2);
    let out = check(&wire.0, answer).out;
    let (mut decoder, mut count) = (client::Decoder::new(), 0);
    for byte in out.chunks(1) {
        let mut input = byte;
        while let Some(reply) = decoder.receive(&mut input).unwrap() {
            count += usize::from(!matches!(reply, client::Reply::Stdout { .. }));
        }
    }
    assert_eq!(count, 4, "values, an unknown type and two ends");
}
