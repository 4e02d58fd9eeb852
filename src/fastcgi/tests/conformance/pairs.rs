//! Name-value pairs (FastCGI 1.0 §3.4).

use super::super::*;

#[test]
fn c4_all_forms_of_lengths_are_read_and_pairs_may_straddle_records() {
    let mut content = Vec::new();
    let long = "L".repeat(200);
    params::encode(b"SHORT", b"short", &mut content);
    params::encode(b"SHORT", long.as_bytes(), &mut content);
    params::encode(long.as_bytes(), b"short", &mut content);
    params::encode(long.as_bytes(), long.as_bytes(), &mut content);
    content.extend_from_slice(b"\x80\0\0\x03\x03FOObar");
    content.extend_from_slice(b"\x03\x80\0\0\x03FOObar");
    content.extend_from_slice(b"\x80\0\0\x03\x80\0\0\x03FOObar");
    content.extend_from_slice(b"\x80\0\0\0\0");
    let expected =
        format!("params 1 SHORT=short SHORT={long} {long}=short {long}={long} FOO=bar FOO=bar FOO=bar =");
    for size in [1, 2, 3, 5, 100, 65_535] {
        let mut wire = Wire::new().begin(1);
        for part in content.chunks(size) {
            wire = wire.raw(PARAMS, 1, part, 0);
        }
        let outcome = check(&wire.raw(PARAMS, 1, b"", 0).0, wait);
        assert_eq!(outcome.seen[1], expected, "records of {size}");
    }
}

#[test]
fn c5_a_length_past_the_end_is_refused_with_400_and_close() {
    let contents: [&[u8]; 7] = [
        b"\x05",
        b"\x05\x05",
        b"\x05\x05NAMEvalu",
        b"\x80\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xff\xff\xff\xff\x05NAME",
        b"\x01\x01A1\x01\xff\xff\xff\xffB",
    ];
    for content in contents {
        let wire = Wire::new().begin(1).raw(PARAMS, 1, content, 0).raw(PARAMS, 1, b"", 0).stdin_end(1);
        let outcome = check(&wire.0, answer);
        assert_eq!(outcome.seen[1..], ["refused 1 Truncated", "Close"], "{content:?}");
        assert_eq!(outcome.replies[0], "stdout 1 Status: 400\\r\\n\\r\\n");
        assert_eq!(outcome.fault, None);
    }
}

#[test]
fn c6_a_nul_in_a_name_or_value_is_refused_with_400() {
    for (name, value) in [("A\0B", "1"), ("\0", ""), ("A", "1\0"), ("A", "\0")] {
        let outcome = check(&Wire::new().begin(1).params(1, &[("X", "1"), (name, value)]).0, answer);
        assert_eq!(outcome.seen[1..], ["refused 1 Nul", "KeepOpen"]);
    }
}
