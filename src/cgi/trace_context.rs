//! The trace that a request belongs to: `traceparent` of W3C Trace Context, Levels 1 and 2.
//!
//! The gateway logs the trace id. Never changes the header: nibiru takes part in no trace, and passes the context on.

use std::fmt;

/// The variable that holds `traceparent`.
pub const TRACEPARENT: &[u8] = b"HTTP_TRACEPARENT";

/// `version "-" trace-id "-" parent-id "-" trace-flags`: 2, 32, 16 and 2 digits.
const LENGTH: usize = 55;

/// §3.2.2.1: "Version ff is invalid."
const INVALID_VERSION: &[u8] = b"ff";

/// The only version whose whole content is specified.
const KNOWN_VERSION: &[u8] = b"00";

/// The identifier of a trace: 32 lower-case hexadecimal digits, not all of them zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId([u8; 32]);

impl TraceId {
    /// The trace id in the value of a `traceparent`; `None` where that is invalid. §3.2.2.3: "Vendors MUST ignore the
    /// traceparent when the trace-id is invalid"; §3.2.2.4 says the same of the parent-id.
    pub fn of_traceparent(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_first_chunk::<LENGTH>()?;
        let [version, trace_id, parent_id, flags] = parts(known)?;
        let digits = [version, trace_id, parent_id, flags].into_iter().all(is_lower_hex);
        // §4.3 (versioning): a higher version may have more fields, behind a dash.
        let ends = rest.is_empty() || (version != KNOWN_VERSION && rest[0] == b'-');
        let valid = digits && ends && version != INVALID_VERSION && !is_zero(trace_id) && !is_zero(parent_id);
        if valid { trace_id.try_into().ok().map(Self) } else { None }
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The four fields of a traceparent's known part, without the dashes between them.
fn parts(known: &[u8; LENGTH]) -> Option<[&[u8]; 4]> {
    let dashes = [2, 35, 52].iter().all(|&at| known[at] == b'-');
    dashes.then(|| [&known[..2], &known[3..35], &known[36..52], &known[53..]])
}

/// `HEXDIGLC`: upper case is invalid.
fn is_lower_hex(digits: &[u8]) -> bool {
    digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_zero(digits: &[u8]) -> bool {
    digits.iter().all(|digit| *digit == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn of(value: &str) -> Option<String> {
        TraceId::of_traceparent(value.as_bytes()).map(|id| id.as_str().to_owned())
    }

    #[test]
    fn the_trace_id_of_each_valid_traceparent_is_found() {
        // Level 2 has a second flag ("random"); unknown flags are no reason to refuse.
        for flags in ["00", "01", "02", "03", "ff"] {
            assert_eq!(of(&format!("00-{TRACE}-{PARENT}-{flags}")).as_deref(), Some(TRACE), "{flags}");
        }
        let nearly_zero = "00000000000000000000000000000001";
        assert_eq!(of(&format!("00-{nearly_zero}-0000000000000001-01")).as_deref(), Some(nearly_zero));
    }

    #[test]
    fn a_higher_version_may_have_more_behind_a_dash() {
        for version in ["01", "cc", "fe"] {
            for more in ["", "-", "-what-the-future-brings", "-\u{e9}"] {
                let value = format!("{version}-{TRACE}-{PARENT}-01{more}");
                assert_eq!(of(&value).as_deref(), Some(TRACE), "{value}");
            }
            assert_eq!(of(&format!("{version}-{TRACE}-{PARENT}-01.what")), None);
        }
        assert_eq!(of(&format!("00-{TRACE}-{PARENT}-01-")), None);
    }

    #[test]
    fn what_is_invalid_is_ignored() {
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{zeros}-{PARENT}-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", PARENT.to_uppercase()),
            format!("0A-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-0F"),
            format!("00-{TRACE}-{PARENT}-0"),
            format!("00-{TRACE}-{PARENT}-001"),
            format!("00-{TRACE}-{PARENT}"),
            format!("00_{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}_{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}_01"),
            format!("00-{}g-{PARENT}-01", &TRACE[1..]),
            format!("00-{}-{PARENT}-01", &TRACE[1..]),
            format!("-00-{TRACE}-{PARENT}-01"),
            format!(" 00-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-01, 00-{TRACE}-{PARENT}-01"),
            format!("00-{}\"-{PARENT}-01", &TRACE[1..]),
        ] {
            assert_eq!(of(&bad), None, "{bad}");
        }
    }
}
