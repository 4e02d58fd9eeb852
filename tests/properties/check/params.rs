//! Properties of name-value pairs.

use nibiru::cgi::Variables;
use nibiru::fastcgi::Refusal;
use nibiru::fastcgi::params::{Decoder, Pairs, encode};

use super::{controls, pieces};

/// The pairs, or the error, are the same in any split and within the limits. Accepted pairs survive a round trip.
pub(crate) fn params(data: &[u8]) {
    let (bytes, lengths) = controls(data);
    for (max_bytes, max_pairs) in [(1 << 20, 1 << 20), (200, 1 << 20), (1 << 20, 3), (100, 2)] {
        let decode = |reads: &mut dyn Iterator<Item = &[u8]>| decode(reads, max_bytes, max_pairs);
        let whole = decode(&mut [bytes].into_iter());
        assert_eq!(decode(&mut pieces(bytes, lengths).into_iter()), whole, "in pieces");
        assert_eq!(decode(&mut bytes.chunks(1)), whole, "byte by byte");
        if let Ok(variables) = whole {
            assert!(bytes.len() <= max_bytes && variables.iter().count() <= max_pairs);
            let mut again = Vec::new();
            for (name, value) in &variables {
                assert!(!name.contains(&0) && !value.contains(&0));
                encode(name, value, &mut again);
            }
            assert!(again.len() <= bytes.len(), "the rewritten pairs are longer than the input");
            assert_eq!(decode(&mut [&again[..]].into_iter()).as_ref(), Ok(&variables));
            let pairs: Result<Vec<_>, _> = Pairs::new(bytes).collect();
            assert!(pairs.expect("complete pairs").into_iter().eq(variables.iter()));
            let flat = Variables::from_encoded(variables.encoded().to_vec());
            assert_eq!(flat, Some(variables));
        }
    }
    round_trip(bytes);
}

fn decode(
    reads: &mut dyn Iterator<Item = &[u8]>,
    max_bytes: usize,
    max_pairs: usize,
) -> Result<Variables, Refusal> {
    let mut decoder = Decoder::new(max_bytes, max_pairs);
    for bytes in reads {
        decoder.feed(bytes)?;
    }
    decoder.finish()
}

/// Names and values of any bytes and lengths survive [`encode`] followed by [`Pairs`].
fn round_trip(mut bytes: &[u8]) {
    let (mut pairs, mut encoded) = (Vec::new(), Vec::new());
    while let [name, value, rest @ ..] = bytes {
        let (name, rest) = rest.split_at(rest.len().min(usize::from(*name)));
        let (value, rest) = rest.split_at(rest.len().min(usize::from(*value)));
        encode(name, value, &mut encoded);
        pairs.push((name, value));
        bytes = rest;
    }
    let decoded: Result<Vec<_>, _> = Pairs::new(&encoded).collect();
    assert_eq!(decoded, Ok(pairs));
    if let Some(cut) = encoded.len().checked_sub(1) {
        let cut: Result<Vec<_>, _> = Pairs::new(&encoded[..cut]).collect();
        assert!(cut.is_err(), "a truncated pair is accepted");
    }
}
