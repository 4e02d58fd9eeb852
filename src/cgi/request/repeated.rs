//! Repeated names among a request's variables: the spellings that are one name, and the one value of a repeated name.
//!
//! A parameter without `HTTP_` comes from the proxy's configuration, where a line that follows an included file is meant to
//! replace a line of that file. An `HTTP_*` parameter may be the client's header, sent twice. Called by [`super::head`]; never
//! judges a single value.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::super::variables::Variables;
use super::bad_request::BadRequest;

/// The way in which the values of a repeated name become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The last value counts, as in php-fpm: a later line of the configuration replaces an earlier one. nginx leaves a client's
    /// header out that is configured; HAProxy and lighttpd write configured headers behind the client's.
    Last,
    /// The last value counts, but two different lengths are refused: they would leave open where the body ends.
    OneLength,
    /// All values must be the same: the proxy may have checked another than the application reads.
    Same,
    /// A list whose parts came in several fields, joined by this separator.
    Joined(&'static str),
}

/// Headers of [`Rule::Same`]: with two different values a client could pass a check with one and act with the other.
const SAME: [&[u8]; 4] =
    [b"HTTP_AUTHORIZATION", b"HTTP_PROXY_AUTHORIZATION", b"HTTP_HOST", b"HTTP_CONTENT_TYPE"];

const LENGTHS: [&[u8]; 2] = [b"CONTENT_LENGTH", b"FCGI_DATA_LENGTH"];

/// Request fields that are defined as lists, whose parts may come in several fields (RFC 9110 §5.3), from the IANA
/// registry of field names. Fields that only a proxy may vouch for are left out (Client-Cert-Chain, RFC 9440): there the
/// last value counts, so that no value of the client's stays. X-Forwarded-For is in no standard; every proxy appends to it.
const LISTS: [&[u8]; 30] = [
    // RFC 9110
    b"HTTP_ACCEPT",
    b"HTTP_ACCEPT_CHARSET",
    b"HTTP_ACCEPT_ENCODING",
    b"HTTP_ACCEPT_LANGUAGE",
    b"HTTP_ALLOW",
    b"HTTP_CONNECTION",
    b"HTTP_CONTENT_ENCODING",
    b"HTTP_CONTENT_LANGUAGE",
    b"HTTP_EXPECT",
    b"HTTP_IF_MATCH",
    b"HTTP_IF_NONE_MATCH",
    b"HTTP_TE",
    b"HTTP_TRAILER",
    b"HTTP_UPGRADE",
    b"HTTP_VIA",
    // RFC 9111, 9112
    b"HTTP_CACHE_CONTROL",
    b"HTTP_PRAGMA",
    b"HTTP_TRANSFER_ENCODING",
    // RFC 6455, 7239, 7240, 8288, 8586, 9218, 9530
    b"HTTP_SEC_WEBSOCKET_EXTENSIONS",
    b"HTTP_SEC_WEBSOCKET_PROTOCOL",
    b"HTTP_FORWARDED",
    b"HTTP_PREFER",
    b"HTTP_LINK",
    b"HTTP_CDN_LOOP",
    b"HTTP_PRIORITY",
    b"HTTP_CONTENT_DIGEST",
    // Fetch; W3C Trace Context and Baggage
    b"HTTP_ACCESS_CONTROL_REQUEST_HEADERS",
    b"HTTP_TRACESTATE",
    b"HTTP_BAGGAGE",
    b"HTTP_X_FORWARDED_FOR",
];

impl Rule {
    fn of(name: &[u8]) -> Self {
        let folded = |known: &&[u8]| is_same(known, name);
        if LENGTHS.contains(&name) {
            Self::OneLength
        } else if !is_header(name) {
            Self::Last
        } else if SAME.iter().any(folded) {
            Self::Same
        } else if is_same(b"HTTP_COOKIE", name) {
            // RFC 9113 §8.2.3. In one field a client writes cookies so (RFC 6265 §5.4).
            Self::Joined("; ")
        } else if LISTS.iter().any(folded) {
            Self::Joined(", ")
        } else {
            Self::Last
        }
    }
}

/// The one value of a name that came with `values`, at least one, in this order; `None` where they contradict each other.
fn one_of<'a>(name: &[u8], values: &[&'a [u8]]) -> Option<Cow<'a, [u8]>> {
    let last = values.last().copied().unwrap_or_default();
    match Rule::of(name) {
        Rule::Last => Some(last.into()),
        Rule::OneLength => agree(values.iter().filter(|value| !value.is_empty())).then(|| last.into()),
        Rule::Same => agree(values.iter()).then(|| last.into()),
        Rule::Joined(separator) => {
            let parts: Vec<&[u8]> = values.iter().copied().filter(|value| !value.is_empty()).collect();
            Some(parts.join(separator.as_bytes()).into())
        }
    }
}

fn agree<'v>(mut values: impl Iterator<Item = &'v &'v [u8]>) -> bool {
    let first = values.next();
    values.all(|value| Some(value) == first)
}

/// Variables that were changed so that every name is there once.
#[derive(Debug)]
pub(super) struct Deduplicated {
    pub(super) variables: Variables,
    /// Names without `HTTP_` that came more than once: the proxy's configuration has them twice.
    pub(super) repeated: Vec<Vec<u8>>,
}

/// Bits of the set of names that [`SeenNames`] has. The names of an ordinary request, some 30, meet by chance once
/// in forty lists of names.
const SEEN_BITS: usize = 1 << 14;

/// The names of a request's variables, as far as they tell whether [`settle`] would change anything. That is so for hardly any
/// request, and a false alarm costs only the sort.
pub(super) struct SeenNames {
    bits: [u64; SEEN_BITS / 64],
    may_need_settling: bool,
}

impl SeenNames {
    pub(super) fn new() -> Self {
        Self { bits: [0; SEEN_BITS / 64], may_need_settling: false }
    }

    pub(super) fn see(&mut self, name: &[u8]) {
        // Fibonacci hashing: the upper bits of the product depend on all bits of the key.
        let [first, second, ..] = key(name).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
        let hash = usize::from(u16::from_be_bytes([first, second])) % SEEN_BITS;
        let word = &mut self.bits[hash / 64];
        let bit = 1 << (hash % 64);
        self.may_need_settling |= *word & bit != 0 || name.is_empty() || is_same(name, HTTPOXY);
        *word |= bit;
    }

    /// Whether a name may be empty, repeated or `HTTP_PROXY`.
    pub(super) fn may_need_settling(&self) -> bool {
        self.may_need_settling
    }
}

/// Gives every name one value, at the place of its last, and leaves `HTTP_PROXY` out; `None` where all stays as it is.
///
/// # Errors
/// When a name is empty, values contradict each other, or two `HTTP_*` names cannot be told apart: nginx writes the client's
/// headers behind the configured parameters, so there any order would let a client win.
pub(super) fn settle(variables: &Variables) -> Result<Option<Deduplicated>, BadRequest> {
    let named = |(at, (name, value))| Name::new(name, value, at);
    let mut names: Vec<Name<'_>> = variables.iter().enumerate().map(named).collect();
    // Keeps the cost of many names, all sent by a stranger, at n log n.
    names.sort_unstable_by(Name::compare);
    // The new value of the variable at a position; `None` removes it. Empty for ordinary requests.
    let mut changes: Vec<(usize, Option<Cow<'_, [u8]>>)> = Vec::new();
    let mut repeated = Vec::new();
    for same in names.chunk_by(Name::is_one_with) {
        let Some((first, others)) = same.split_first() else { continue };
        if first.bytes.is_empty() {
            return Err(BadRequest::EmptyName);
        }
        if is_same(first.bytes, HTTPOXY) {
            changes.extend(same.iter().map(|name| (name.at, None)));
            continue;
        }
        let Some((last, before)) = others.split_last() else { continue };
        if let Some(other) = others.iter().find(|other| other.bytes != first.bytes) {
            return Err(BadRequest::Ambiguous { name: first.bytes.to_vec(), other: other.bytes.to_vec() });
        }
        let values: Vec<&[u8]> = same.iter().map(|name| name.value).collect();
        let Some(value) = one_of(first.bytes, &values) else {
            return Err(BadRequest::Contradiction { name: first.bytes.to_vec() });
        };
        changes.extend(before.iter().chain([first]).map(|name| (name.at, None)));
        changes.push((last.at, Some(value)));
        if !is_header(first.bytes) {
            repeated.push(first.bytes.to_vec());
        }
    }
    if changes.is_empty() {
        return Ok(None);
    }
    changes.sort_unstable_by_key(|(at, _)| *at);
    let mut settled = Variables::new();
    settled.reserve(variables.encoded().len());
    for (at, (name, value)) in variables.iter().enumerate() {
        match changes.binary_search_by_key(&at, |(at, _)| *at) {
            Ok(found) => changes[found].1.iter().for_each(|value| settled.push(name, value)),
            Err(_) => settled.push(name, value),
        }
    }
    Ok(Some(Deduplicated { variables: settled, repeated }))
}

/// A client's `Proxy` header would arrive under the name that HTTP libraries take their proxy from
/// (CVE-2016-5385, "httpoxy"); there is no such request header, so nothing is lost.
const HTTPOXY: &[u8] = b"HTTP_PROXY";

const HEADER: &[u8] = b"HTTP_";

/// Whether a name may stand for a request header, in whatever spelling.
fn is_header(name: &[u8]) -> bool {
    name.get(..HEADER.len()).is_some_and(|start| is_same(start, HEADER))
}

/// Whether a header of one name could have become the other: proxies write them in upper case, with `_` for `-`.
fn is_same(name: &[u8], other: &[u8]) -> bool {
    name.len() == other.len() && name.iter().zip(other).all(|(a, b)| fold(*a) == fold(*b))
}

fn fold(byte: u8) -> u8 {
    if byte == b'-' { b'_' } else { byte.to_ascii_uppercase() }
}

/// A number that is the same for all names that [`is_same`]: the folded end of the name, with its length. Names differ at the end.
fn key(name: &[u8]) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const LOW_BITS: u64 = ONES * 0x7F;
    let mut end = [0; 8];
    match name.last_chunk::<8>() {
        Some(chunk) => end = *chunk,
        None => end[..name.len()].copy_from_slice(name),
    }
    let word = u64::from_le_bytes(end);
    // 1 in each byte that is `-`: the difference to `-` is zero in these bytes alone.
    let difference = word ^ (ONES * u64::from(b'-'));
    let dashes = !(((difference & LOW_BITS) + LOW_BITS) | difference | LOW_BITS) >> 7;
    // Bits instead of letters: this also folds some other characters, which only costs a comparison.
    let folded = (word ^ (dashes * u64::from(b'-' ^ b'_'))) & !(ONES * 0x20);
    folded ^ (name.len() as u64).rotate_right(8)
}

/// A variable in an order that puts equal names together. The names of headers compare without regard to case and to `-`
/// against `_`: the variable of a header `X-Foo` must not be confused with a header that came as `X_Foo`. Other names compare byte
/// by byte: a health check that sends its environment has `no_proxy` and `NO_PROXY`.
struct Name<'a> {
    /// The [`key`] of the name, which decides nearly every comparison.
    key: u64,
    bytes: &'a [u8],
    value: &'a [u8],
    /// Position among the variables.
    at: usize,
}

impl<'a> Name<'a> {
    fn new(bytes: &'a [u8], value: &'a [u8], at: usize) -> Self {
        Self { key: key(bytes), bytes, value, at }
    }

    /// The order that puts equal names beside each other, and those in the order in which they came.
    fn compare(&self, other: &Self) -> Ordering {
        let spelling = || if is_header(self.bytes) { Ordering::Equal } else { self.bytes.cmp(other.bytes) };
        self.key
            .cmp(&other.key)
            .then_with(|| self.folded().cmp(other.folded()))
            .then_with(spelling)
            .then(self.at.cmp(&other.at))
    }

    fn folded(&self) -> impl Iterator<Item = u8> {
        self.bytes.iter().map(|byte| fold(*byte))
    }

    fn is_one_with(&self, other: &Self) -> bool {
        self.key == other.key
            && (self.bytes == other.bytes || is_header(self.bytes) && is_same(self.bytes, other.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_repeated_name_means() {
        let refused = None;
        for (name, values, expected) in [
            // The proxy's own: the last line of the configuration.
            ("SCRIPT_NAME", &["/a", ""][..], Some("")),
            ("SCRIPT_FILENAME", &["/a", "/b"], Some("/b")),
            ("REMOTE_ADDR", &["192.0.2.1", "10.0.0.1"], Some("10.0.0.1")),
            ("REMOTE_USER", &["", "enki"], Some("enki")),
            ("HTTPS", &["on", ""], Some("")),
            ("REQUEST_METHOD", &["GET", "POST"], Some("POST")),
            ("CONTENT_TYPE", &["a/b", "c/d"], Some("c/d")),
            ("AUTH_TYPE", &["Basic", ""], Some("")),
            ("XHTTP_COOKIE", &["a", "b"], Some("b")),
            // Lengths.
            ("CONTENT_LENGTH", &["5", ""], Some("")),
            ("CONTENT_LENGTH", &["", "5"], Some("5")),
            ("CONTENT_LENGTH", &["5", "5"], Some("5")),
            ("CONTENT_LENGTH", &["5", "", "6"], refused),
            ("CONTENT_LENGTH", &["5", "05"], refused),
            ("CONTENT_LENGTH", &["5", "6", ""], refused),
            ("FCGI_DATA_LENGTH", &["5", "6"], refused),
            ("content_length", &["5", "6"], Some("6")),
            // Headers.
            ("HTTP_X_USER", &["client", "configured"], Some("configured")),
            ("HTTP_X_FORWARDED_PROTO", &["https", "http"], Some("http")),
            ("HTTP_X_FORWARDED_FOR", &["forged", "192.0.2.1"], Some("forged, 192.0.2.1")),
            ("HTTP_FORWARDED", &["for=a", "for=b"], Some("for=a, for=b")),
            ("HTTP_VIA", &["1.1 a", "1.1 b", "1.1 c"], Some("1.1 a, 1.1 b, 1.1 c")),
            ("HTTP_ACCEPT", &["text/html", "", "*/*"], Some("text/html, */*")),
            ("HTTP_ACCEPT", &["", ""], Some("")),
            ("http_accept", &["a", "b"], Some("a, b")),
            ("HTTP_COOKIE", &["a=1", "b=2; c=3"], Some("a=1; b=2; c=3")),
            ("HTTP_CLIENT_CERT_CHAIN", &["forged", "real"], Some("real")),
            // What the proxy may have looked at.
            ("HTTP_AUTHORIZATION", &["Bearer a", "Bearer b"], refused),
            ("HTTP_AUTHORIZATION", &["Bearer a", "Bearer a"], Some("Bearer a")),
            ("HTTP_AUTHORIZATION", &["Bearer a", ""], refused),
            ("HTTP_PROXY_AUTHORIZATION", &["a", "b"], refused),
            ("HTTP_HOST", &["a.example", "b.example"], refused),
            ("HTTP-Host", &["a.example", "b.example"], refused),
            ("HTTP_CONTENT_TYPE", &["text/html", "text/plain"], refused),
        ] {
            let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
            let one = one_of(name.as_bytes(), &values);
            let one = one.as_deref().map(|bytes| str::from_utf8(bytes).unwrap());
            assert_eq!(one, expected, "{name} {values:?}");
        }
    }

    #[test]
    fn names_that_are_the_same_have_one_key() {
        for (name, others) in [
            ("HTTP_X_FOO", &["HTTP_X-Foo", "http-x-foo", "hTTP_x_fOO"][..]),
            ("A-", &["a_", "A_", "a-"]),
            ("---", &["___", "-_-"]),
            ("", &[]),
        ] {
            for other in others {
                assert!(is_same(name.as_bytes(), other.as_bytes()));
                assert_eq!(key(name.as_bytes()), key(other.as_bytes()), "{name} {other}");
            }
        }
        let distinct = ["A", "B", "AA", "", "SERVER_NAME", "SCRIPT_NAME", "SERVER_PORT", "REMOTE_PORT", "\0"];
        let keys: std::collections::BTreeSet<u64> =
            distinct.iter().map(|name| key(name.as_bytes())).collect();
        assert_eq!(keys.len(), distinct.len());
    }

    fn may_need_settling(variables: &Variables) -> bool {
        let mut names = SeenNames::new();
        variables.iter().for_each(|(name, _)| names.see(name));
        names.may_need_settling()
    }

    #[test]
    fn the_names_of_an_ordinary_request_need_no_sort() {
        let mut variables = Variables::new();
        let lines = include_str!("../../../deploy/nginx/nibiru_params").lines();
        let configured =
            lines.filter_map(|line| line.strip_prefix("fastcgi_param")?.split_whitespace().next());
        // An empty HTTP_PROXY is not sent.
        let configured = configured.filter(|name| *name != "HTTP_PROXY");
        let headers = ["CONNECTION", "USER_AGENT", "ACCEPT", "ACCEPT_ENCODING", "ACCEPT_LANGUAGE", "COOKIE"];
        let headers = headers.map(|name| [HEADER, name.as_bytes()].concat());
        let names = configured.map(|name| name.as_bytes().to_vec()).chain(headers);
        names.for_each(|name| variables.push(&name, b""));
        assert!(variables.iter().count() > 25);
        assert!(!may_need_settling(&variables));
    }

    proptest::proptest! {
        #[test]
        fn one_pass_misses_nothing_that_the_sort_finds(
            names in proptest::collection::vec("(HTTP_|http-)?(PROXY|proxy|[A-Ca-c_-]{0,3})", 0..12)
        ) {
            let mut variables = Variables::new();
            names.iter().for_each(|name| variables.push(name.as_bytes(), b"v"));
            let settled = settle(&variables);
            proptest::prop_assert!(may_need_settling(&variables) || matches!(settled, Ok(None)), "{settled:?}");
        }
    }

    #[test]
    fn the_tables_hold_names_of_headers_as_proxies_write_them() {
        for name in SAME.iter().chain(&LISTS) {
            assert!(name.starts_with(HEADER) && name.iter().all(|byte| fold(*byte) == *byte));
        }
    }
}
