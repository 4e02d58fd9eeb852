//! Properties of the client on a server's bytes.

use std::collections::BTreeMap;

use nibiru::fastcgi::client::{Decoder, Fault, Reply};
use nibiru::fastcgi::record::{BadVersion, HEADER_LENGTH, Header, RecordType};

use super::{controls, pieces, push_joined};

/// Replies with the pieces of streams joined, the fault that ended them, and whether the input ended between two records.
type Replies = (Vec<(String, Vec<u8>)>, Option<Fault>, bool);

/// The replies are independent of the split into reads, and no longer than the input.
pub(crate) fn client(data: &[u8]) {
    let (bytes, lengths) = controls(data);
    let whole = replies([bytes]);
    assert_eq!(replies(pieces(bytes, lengths)), whole, "in pieces");
    assert_eq!(replies(bytes.chunks(1)), whole, "byte by byte");
    let streamed: usize = whole.0.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(streamed <= bytes.len());
}

fn replies<'b>(reads: impl IntoIterator<Item = &'b [u8]>) -> Replies {
    let (mut decoder, mut lines) = (Decoder::new(), Vec::new());
    for mut input in reads {
        loop {
            match decoder.receive(&mut input) {
                Ok(Some(Reply::Stdout { id, bytes })) => push_joined(format!("out {id}"), bytes, &mut lines),
                Ok(Some(Reply::Stderr { id, bytes })) => push_joined(format!("err {id}"), bytes, &mut lines),
                Ok(Some(reply)) => push_joined(format!("{reply:?}"), b"", &mut lines),
                Ok(None) => break,
                Err(fault) => return (lines, Some(fault), false),
            }
        }
        assert!(input.is_empty(), "all input is consumed");
    }
    (lines, None, decoder.is_between_records())
}

/// The record reader finds the same records as a naive reader that has the whole input; headers survive a round trip.
pub(crate) fn records(data: &[u8]) {
    let (bytes, lengths) = controls(data);
    let (mut decoder, mut streams) = (Decoder::new(), BTreeMap::<_, Vec<u8>>::new());
    'reads: for mut input in pieces(bytes, lengths) {
        loop {
            match decoder.receive(&mut input) {
                Ok(Some(Reply::Stdout { id, bytes })) => {
                    streams.entry(id).or_default().extend_from_slice(bytes)
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => break 'reads,
            }
        }
    }
    let (naive, whole) = naive_stdout(bytes);
    for (id, stream) in streams {
        let expected = &naive[&id];
        assert!(expected.starts_with(&stream), "request {id}");
        assert!(!whole || *expected == stream, "request {id} has lost bytes");
    }
}

/// STDOUT of every request, and whether no byte of the input could have stopped the client.
fn naive_stdout(mut bytes: &[u8]) -> (BTreeMap<u16, Vec<u8>>, bool) {
    let (mut streams, mut whole) = (BTreeMap::<u16, Vec<u8>>::new(), true);
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LENGTH>() {
        let header = match Header::decode(header) {
            Ok(decoded) => {
                let mut again = decoded.encode();
                again[7] = header[7];
                assert_eq!(again, *header, "a header changes in a round trip");
                decoded
            }
            Err(BadVersion(version)) => {
                assert_ne!(version, 1);
                return (streams, false);
            }
        };
        whole &= matches!(header.record_type, RecordType::Stdout | RecordType::Stderr | RecordType::Other(_));
        let length = usize::from(header.content_length).min(rest.len());
        if header.record_type == RecordType::Stdout {
            streams.entry(header.request_id).or_default().extend_from_slice(&rest[..length]);
        }
        let padding = usize::from(header.padding_length).min(rest.len() - length);
        bytes = &rest[length + padding..];
    }
    (streams, whole)
}
