//! Redaction: leaves the secrets of a request out of logs and pages, because a reader could act as the client with them.
//!
//! Applies to the main log with its tracebacks and slow requests, the status, and the error page of `dev`; the access log has
//! an option instead. Secrets are found by name: a secret in a path segment or under an ordinary name is not detected.

use std::borrow::Cow;
use std::ops::Range;

use crate::cgi::path::percent_decode;

/// Replacement of a secret.
pub const REDACTED: &str = "[redacted]";

/// Most levels of percent-encoding searched for a URL: a URL in a parameter of a URL in a parameter.
const MAX_DEPTH: u32 = 3;

/// The scope in which a word marks a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchScope {
    /// Anywhere in a name, because the word has no other common meaning.
    Anywhere,
    /// A whole word of a name (`x_sig`, `userPin`), because ordinary words begin or end with the same letters.
    Word,
    /// The whole name of a query parameter; elsewhere the name mostly is harmless.
    Query,
}

/// Names of secrets in lower case, their scope, and the reason. `-`, `_` and the like are ignored: `api-key` matches `apikey`.
pub const NAMES: &[(&str, MatchScope, &str)] = &[
    (
        "authorization",
        MatchScope::Anywhere,
        "the header, and Proxy-Authorization: user and password, or a token",
    ),
    ("cookie", MatchScope::Anywhere, "Cookie and Set-Cookie: the session"),
    ("token", MatchScope::Anywhere, "access, refresh, id, CSRF and reset tokens"),
    ("secret", MatchScope::Anywhere, "client_secret and its kin"),
    ("passw", MatchScope::Anywhere, "password, passwd"),
    ("passphrase", MatchScope::Anywhere, "a password"),
    ("pwd", MatchScope::Anywhere, "a password"),
    ("credential", MatchScope::Anywhere, "X-Amz-Credential, X-Goog-Credential"),
    ("signature", MatchScope::Anywhere, "a signed URL is good for whoever has it"),
    ("hmac", MatchScope::Anywhere, "a signature"),
    ("apikey", MatchScope::Anywhere, "a key"),
    ("accesskey", MatchScope::Anywhere, "AWSAccessKeyId"),
    ("authkey", MatchScope::Anywhere, "a key"),
    ("privatekey", MatchScope::Anywhere, "a key"),
    ("signingkey", MatchScope::Anywhere, "a key"),
    ("encryptionkey", MatchScope::Anywhere, "a key"),
    ("session", MatchScope::Anywhere, "session ids"),
    ("sessid", MatchScope::Anywhere, "PHPSESSID, sessid"),
    ("jwt", MatchScope::Anywhere, "a token"),
    ("bearer", MatchScope::Anywhere, "a token"),
    ("csrf", MatchScope::Anywhere, "a token"),
    ("xsrf", MatchScope::Anywhere, "a token"),
    ("oauth", MatchScope::Anywhere, "OAuth 1.0 signs its queries"),
    ("codeverifier", MatchScope::Anywhere, "PKCE's half of an authorization code"),
    ("saml", MatchScope::Anywhere, "SAMLResponse is a login"),
    ("assertion", MatchScope::Anywhere, "a login, signed"),
    ("auth", MatchScope::Word, "X-Auth-…"),
    ("pass", MatchScope::Word, "a password"),
    ("pw", MatchScope::Word, "a password"),
    ("pin", MatchScope::Word, "a password"),
    ("otp", MatchScope::Word, "a one-time password"),
    ("totp", MatchScope::Word, "a one-time password"),
    ("sig", MatchScope::Word, "Azure's signed URLs"),
    ("sid", MatchScope::Word, "session ids"),
    ("cvv", MatchScope::Word, "of a payment card"),
    ("cvc", MatchScope::Word, "of a payment card"),
    ("ssn", MatchScope::Word, "US social security number"),
    ("code", MatchScope::Query, "an authorization code of OAuth"),
    ("key", MatchScope::Query, "Google's API keys"),
    ("ticket", MatchScope::Query, "a login of CAS"),
];

/// Whether the value of a header, an environment variable or a field with this name is left out.
pub fn is_secret(name: &str) -> bool {
    matches(name, false)
}

/// Redacts a URI: values of parameters, in the query or in the path (`;name=value`), whose names are secret or that hold a URI
/// with a secret; and user name and password before a host.
pub fn uri(uri: &[u8]) -> Cow<'_, [u8]> {
    let secrets = secrets_of(uri, MAX_DEPTH);
    if secrets.is_empty() {
        return Cow::Borrowed(uri);
    }
    let mut kept = Vec::with_capacity(uri.len());
    let mut from = 0;
    for secret in secrets {
        // A secret inside a secret is redacted already.
        if secret.start >= from {
            kept.extend_from_slice(&uri[from..secret.start]);
            kept.extend_from_slice(REDACTED.as_bytes());
            from = secret.end;
        }
    }
    kept.extend_from_slice(&uri[from..]);
    Cow::Owned(kept)
}

/// Redacts a URI and cuts its query off.
pub fn path(uri: &[u8]) -> Cow<'_, [u8]> {
    self::uri(uri.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default())
}

/// The value of a parameter, redacted if its name is secret or if it holds a URI with a secret. Both arguments are decoded.
pub fn parameter<'a>(name: &str, value: &'a str) -> Cow<'a, str> {
    if matches(name, true) || has_secret(value.as_bytes(), MAX_DEPTH) {
        Cow::Borrowed(REDACTED)
    } else {
        Cow::Borrowed(value)
    }
}

/// The value of a header: redacted as a whole if its name is secret, else redacted as a URI.
pub fn header<'a>(name: &str, value: &'a [u8]) -> Cow<'a, [u8]> {
    if is_secret(name) { Cow::Borrowed(REDACTED.as_bytes()) } else { uri(value) }
}

/// Byte ranges of the secrets of a URI, sorted by start.
fn secrets_of(uri: &[u8], depth: u32) -> Vec<Range<usize>> {
    let query = uri.iter().position(|byte| *byte == b'?').unwrap_or(uri.len());
    let path_end = uri[..query].iter().position(|byte| DELIMITERS.contains(byte)).unwrap_or(query);
    secrets_from(uri, path_end + 1, query, depth)
}

/// Whether text is a URI or a list of parameters with a secret.
fn has_secret(text: &[u8], depth: u32) -> bool {
    !secrets_from(text, 0, 0, depth).is_empty()
}

/// Bytes before the beginning of a parameter. The end of a secret has delimiters of its own.
const DELIMITERS: &[u8] = b"?&;#";

/// Byte ranges of the secrets of a URI. The first parameter begins at `start`; text after `query` belongs to the query.
fn secrets_from(uri: &[u8], mut start: usize, query: usize, depth: u32) -> Vec<Range<usize>> {
    let mut secrets = users_of(uri);
    while start < uri.len() {
        // Pieces never overlap, so the time is linear in the length. Servers disagree on `;`, so a secret in a query extends to
        // the next `&`.
        let (piece_end, secret_end): (&[u8], &[u8]) =
            if start < query { (b"/?&;#", b"/?;") } else { (DELIMITERS, b"&") };
        let end_of = |ends: &[u8]| {
            uri[start..].iter().position(|byte| ends.contains(byte)).map_or(uri.len(), |at| start + at)
        };
        let piece = &uri[start..end_of(piece_end)];
        let (name, value) = match piece.iter().position(|byte| *byte == b'=') {
            Some(at) => (&piece[..at], start + at + 1),
            None => (piece, start),
        };
        let named = value > start && matches(&decode(name), true);
        let secret =
            named || (depth > 0 && piece.contains(&b'%') && has_secret(&percent_decode(piece), depth - 1));
        let from = if secret { end_of(secret_end) } else { start };
        if value < from {
            secrets.push(value..from);
        }
        let next = uri[from..].iter().position(|byte| DELIMITERS.contains(byte));
        start = next.map_or(uri.len(), |at| from + at + 1);
    }
    secrets.sort_by_key(|secret| secret.start);
    secrets
}

/// Byte ranges of `user:password` in each `scheme://user:password@host`.
fn users_of(uri: &[u8]) -> Vec<Range<usize>> {
    let begins = uri.windows(3).enumerate().filter(|(_, three)| *three == b"://");
    let user = |(at, _): (usize, &[u8])| {
        let start = at + 3;
        let authority = uri[start..].split(|byte| b"/?#&".contains(byte)).next()?;
        let length = authority.iter().rposition(|byte| *byte == b'@')?;
        (length > 0).then_some(start..start + length)
    };
    begins.filter_map(user).collect()
}

fn decode(name: &[u8]) -> String {
    String::from_utf8_lossy(&percent_decode(name)).into_owned()
}

fn matches(name: &str, query: bool) -> bool {
    let words = words(name);
    let whole = words.concat();
    NAMES.iter().any(|(secret, scope, _)| match scope {
        MatchScope::Anywhere => whole.contains(secret),
        MatchScope::Word => words.iter().any(|word| word == secret),
        MatchScope::Query => query && whole == *secret,
    })
}

/// The words of a name in lower case: `X-Api-Key`, `api_key`, `apiKey` and `user[key]` have two or three.
fn words(name: &str) -> Vec<String> {
    let (mut words, mut word, mut was_lower) = (Vec::new(), String::new(), false);
    for character in name.chars() {
        if (!character.is_alphanumeric() || (was_lower && character.is_uppercase())) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if character.is_alphanumeric() {
            word.extend(character.to_lowercase());
        }
        was_lower = character.is_lowercase();
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(text: &str) -> String {
        String::from_utf8(uri(text.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn values_of_secret_parameters_are_left_out_of_a_uri() {
        for (given, expected) in [
            ("/a?token=abc", "/a?token=[redacted]"),
            ("/a?x=1&access_token=abc&y=2", "/a?x=1&access_token=[redacted]&y=2"),
            ("/a?accessToken=abc#f", "/a?accessToken=[redacted]"),
            ("/a?TOKEN=abc", "/a?TOKEN=[redacted]"),
            ("/a?%74oken=abc", "/a?%74oken=[redacted]"),
            ("/a?user[password]=abc", "/a?user[password]=[redacted]"),
            ("/a?user%5Bpassword%5D=abc", "/a?user%5Bpassword%5D=[redacted]"),
            ("/a?code=abc&state=1", "/a?code=[redacted]&state=1"),
            ("/a?key=abc", "/a?key=[redacted]"),
            ("/a?api-key=abc", "/a?api-key=[redacted]"),
            ("/a?X-Amz-Signature=abc&X-Amz-Date=1", "/a?X-Amz-Signature=[redacted]&X-Amz-Date=1"),
            ("/a?sv=1&sig=a%2Fb", "/a?sv=1&sig=[redacted]"),
            // Servers disagree on the end of a value: too much is redacted rather than too little.
            ("/a?token=a;b?c#d&x=1", "/a?token=[redacted]&x=1"),
            ("/a?x=1;token=abc", "/a?x=1;token=[redacted]"),
            ("/a?x=1?token=abc", "/a?x=1?token=[redacted]"),
            ("/a?x=1&amp;token=abc", "/a?x=1&amp;token=[redacted]"),
            ("/a;jsessionid=abc/b;v=1?x=1", "/a;jsessionid=[redacted]/b;v=1?x=1"),
            // A URI in a URI, encoded or not.
            ("/a?next=/b?token=abc", "/a?next=/b?token=[redacted]"),
            ("/a?next=%2Fb%3Ftoken%3Dabc&x=1", "/a?next=[redacted]&x=1"),
            ("/a?next=%252Fb%253Ftoken%253Dabc", "/a?next=[redacted]"),
            ("/a?token%3Dabc", "/a?[redacted]"),
            ("http://me:pass@host/a?b", "http://[redacted]@host/a?b"),
            ("/a?next=https://me:pw@host/&x=1", "/a?next=https://[redacted]@host/&x=1"),
        ] {
            assert_eq!(redacted(given), expected);
            assert_eq!(redacted(expected), expected, "a second time");
        }
    }

    #[test]
    fn ordinary_parameters_stay() {
        for harmless in [
            "/",
            "/a?",
            "/a?token",
            "/a?token=",
            "/a?q=token",
            "/a?monkey=1&keyword=2&author=3&postcode=4&pincode=5&compass=6&design=7&zipcode=8&country_code=9",
            "/a?sort_key=1&barcode=2&page=3&spinning=4&side=5",
            "/a@b:c/d?e=f@g",
            "/a?email=me@host",
            "/a?%=%&%zz=%2",
            "/token/abc",
        ] {
            assert!(matches!(uri(harmless.as_bytes()), Cow::Borrowed(_)), "{}", redacted(harmless));
        }
    }

    #[test]
    fn a_path_has_no_query_left() {
        assert_eq!(*path(b"/a;sid=1?b=c"), *b"/a;sid=[redacted]");
        assert_eq!(*path(b"/a?b?c#d"), *b"/a");
        assert_eq!(*path(b"*"), *b"*");
    }

    #[test]
    fn headers_and_fields_are_known_by_their_names() {
        for name in [
            "Authorization",
            "proxy-authorization",
            "HTTP_AUTHORIZATION",
            "Cookie",
            "Set-Cookie",
            "HTTP_COOKIE",
            "X-Api-Key",
            "X-CSRF-Token",
            "X-Auth-User",
            "X-Amz-Security-Token",
            "password",
            "dbPassword",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["Accept", "User-Agent", "code", "key", "Keep-Alive", "Sec-WebSocket-Key", "message", ""]
        {
            assert!(!is_secret(name), "{name}");
        }
        assert_eq!(*header("cookie", b"a=b"), *REDACTED.as_bytes());
        assert_eq!(*header("referer", b"http://a/?token=b"), *b"http://a/?token=[redacted]");
        assert_eq!(*header("accept", b"text/html;q=0.9"), *b"text/html;q=0.9");
    }

    #[test]
    fn a_long_uri_takes_no_long_time_and_never_panics() {
        for piece in ["?token=a", "&a=%", ";%25", "://a:b@", "?&;#=", "%3Ftoken%3D"] {
            let _ = uri(piece.repeat(8000).as_bytes());
        }
    }
}
