//! Response headers by which an application gives its proxy orders: which of them pass, and the one that hands the
//! proxy a file.
//!
//! The worker asks [`Sendfile::address`] what to call a file; the gateway asks [`ProxyHeaders::permit`] of every head,
//! since a worker can write what it likes. Opens no file.

use super::proxy::{normalise, percent_decode};
use super::response::Head;

/// How the names begin that proxies take orders by. The list of each proxy grows with its versions (`X-Sendfile2`,
/// `X-Sendfile-Temporary`, which deletes the file), so it is not names that are guarded. nginx; lighttpd and Apache's
/// mod_xsendfile; lighttpd; H2O; LiteSpeed.
const FAMILIES: [&str; 5] = ["X-Accel-", "X-Sendfile", "X-LIGHTTPD-", "X-Reproxy-", "X-LiteSpeed-"];

/// In a family, and no order: nginx only buffers this one response, or does not.
const HARMLESS: &str = "X-Accel-Buffering";

/// How the names begin of those orders that have something else sent in the response's place.
const SENDING: [&str; 5] =
    ["X-Accel-Redirect", "X-Sendfile", "X-LIGHTTPD-send-", "X-Reproxy-", "X-LiteSpeed-Location"];

/// Whether a header of this name is for the proxy and not for the client.
pub fn is_for_proxy(name: &[u8]) -> bool {
    begins_with_any(name, &FAMILIES)
}

/// Whether a header of this name gives the proxy an order.
///
/// `X-Accel-Expires`, `X-Accel-Charset` and `X-Accel-Limit-Rate` are orders too: a page that is private goes into the
/// cache for all, is read in another charset than its author escaped it for, or holds its connection for hours.
pub fn is_order(name: &[u8]) -> bool {
    is_for_proxy(name) && !name.eq_ignore_ascii_case(HARMLESS.as_bytes())
}

/// Whether a header of this name has the proxy send something else in the response's place.
pub fn replaces_body(name: &[u8]) -> bool {
    begins_with_any(name, &SENDING)
}

/// What the names of orders look like, for messages.
pub const ORDERS_SHOWN: &str = "X-Accel-*, X-Sendfile*, X-LIGHTTPD-*, X-Reproxy-* or X-LiteSpeed-*";

fn begins_with_any(name: &[u8], beginnings: &[&str]) -> bool {
    let begins =
        |with: &&str| name.get(..with.len()).is_some_and(|it| it.eq_ignore_ascii_case(with.as_bytes()));
    beginnings.iter().any(begins)
}

/// What may be said to the proxy.
#[derive(Clone, Debug, Default)]
pub struct ProxyHeaders {
    /// The orders that the application may send itself; all others pass only as [`Sendfile`]'s.
    allowed: Vec<String>,
    sendfile: Option<Sendfile>,
}

impl ProxyHeaders {
    /// `allowed`: names of orders that the application may send.
    pub fn new(allowed: Vec<String>, sendfile: Option<Sendfile>) -> Self {
        Self { allowed, sendfile }
    }

    /// Whether a header of this name is no application's to send.
    pub fn guards(&self, name: &[u8]) -> bool {
        is_order(name) && !self.allowed.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
    }

    /// How the proxy is handed a file.
    pub fn sendfile(&self) -> Option<&Sendfile> {
        self.sendfile.as_ref()
    }

    /// Whether the head holds no order but those that are allowed.
    pub fn permit(&self, head: &Head<'_>) -> bool {
        // Most heads have no such header at all, and are not looked at twice.
        !head.has_extensions() || head.fields().all(|(name, value)| self.permit_field(name, value))
    }

    fn permit_field(&self, name: &[u8], value: &[u8]) -> bool {
        let is_ours = |sendfile: &Sendfile| {
            name.eq_ignore_ascii_case(sendfile.header.as_bytes()) && sendfile.leads_to_a_file(value)
        };
        !self.guards(name) || self.sendfile.as_ref().is_some_and(is_ours)
    }
}

/// A header whose value is a file for the proxy to send.
#[derive(Clone, Debug)]
pub struct Sendfile {
    header: &'static str,
    form: Form,
    /// Directories and what the proxy calls them, without a slash at their ends; longest first. None: the proxy sees
    /// the files that the application sees.
    map: Vec<(Vec<u8>, Vec<u8>)>,
}

/// How a path is written in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As a URI's, percent-encoded: X-Accel-Redirect.
    Uri,
    /// As it is: X-Sendfile. lighttpd and newer Caddys decode it all the same, Apache and older Caddys do not, and Caddys
    /// look for a query; so a name that would not mean the same file to all of them has no address.
    Raw,
}

impl Form {
    fn write(self, path: &[u8]) -> Option<Vec<u8>> {
        let ambiguous = |byte: &u8| byte.is_ascii_control() || b"%?#".contains(byte);
        match self {
            Self::Uri => Some(percent_encode(path)),
            // The space at the end of a header's value is none of it.
            Self::Raw if path.iter().any(ambiguous) || path.ends_with(b" ") => None,
            Self::Raw => Some(path.to_owned()),
        }
    }

    fn read(self, value: &[u8]) -> Vec<u8> {
        match self {
            Self::Uri => percent_decode(value),
            Self::Raw => value.to_owned(),
        }
    }
}

impl Sendfile {
    /// `map`: absolute directories, and the absolute path of each for the proxy.
    pub fn new<'a>(
        header: &'static str,
        form: Form,
        map: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Self {
        let mut map: Vec<_> =
            map.into_iter().map(|(directory, prefix)| (plain(directory), plain(prefix))).collect();
        // Of one directory's entries the first counts: the sort is stable.
        map.sort_by_key(|(directory, _)| std::cmp::Reverse(directory.len()));
        Self { header, form, map }
    }

    /// The name of the header.
    pub fn header(&self) -> &'static str {
        self.header
    }

    /// The header's value for the file at `path`, which [`normalise`] has made; `None` where the proxy does not see it,
    /// or cannot be told its name.
    pub fn address(&self, path: &[u8]) -> Option<Vec<u8>> {
        if self.map.is_empty() {
            return self.form.write(path);
        }
        let (rest, prefix) = self.map.iter().find_map(|(directory, prefix)| {
            let rest = path.strip_prefix(&directory[..]).filter(|rest| rest.starts_with(b"/"))?;
            Some((rest, prefix))
        })?;
        self.form.write(&[&prefix[..], rest].concat())
    }

    /// Whether [`Self::address`] may have given this.
    fn leads_to_a_file(&self, value: &[u8]) -> bool {
        let path = self.form.read(value);
        let under = |prefix: &[u8]| path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(b"/"));
        let known = self.map.is_empty() || self.map.iter().any(|(_, prefix)| under(prefix));
        // What is not written as it is above may be read by a proxy as something else: a query, a step upwards.
        known && normalise(&path).as_ref() == Some(&path) && self.form.write(&path).as_deref() == Some(value)
    }
}

/// A directory without steps in its path and without a slash at its end.
fn plain(directory: &[u8]) -> Vec<u8> {
    let mut plain = normalise(directory).unwrap_or_else(|| directory.to_owned());
    while plain.last() == Some(&b'/') {
        plain.pop();
    }
    plain
}

/// Everything but the unreserved characters of RFC 3986 §2.3 and the slash as `%XX`, so that no proxy finds a query, a
/// plus that means a space, or a line break in a path.
fn percent_encode(path: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = Vec::with_capacity(path.len());
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(byte);
        } else {
            encoded.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::super::response::Status;
    use super::*;

    fn sendfile(map: &[(&str, &str)]) -> Sendfile {
        let map = map.iter().map(|(directory, prefix)| (directory.as_bytes(), prefix.as_bytes()));
        Sendfile::new("X-Accel-Redirect", Form::Uri, map)
    }

    fn address(map: &[(&str, &str)], path: &str) -> Option<String> {
        sendfile(map).address(path.as_bytes()).map(|value| String::from_utf8(value).unwrap())
    }

    #[test]
    fn a_file_is_called_what_the_proxy_calls_it() {
        let map = &[
            ("/srv/files", "/-/files"),
            ("/srv/files/deep/", "/deep"),
            ("/srv/./all//", "/"),
            ("/srv/files", "/second"),
        ][..];
        for (path, expected) in [
            ("/srv/files/a.txt", Some("/-/files/a.txt")),
            ("/srv/files/a/b", Some("/-/files/a/b")),
            ("/srv/files/deep/b", Some("/deep/b")),
            ("/srv/files/deeper/b", Some("/-/files/deeper/b")),
            ("/srv/all/b", Some("/b")),
            ("/srv/files2/b", None),
            ("/srv/files", None),
            ("/etc/passwd", None),
        ] {
            assert_eq!(address(map, path).as_deref(), expected, "{path}");
        }
        assert_eq!(address(&[("/", "/files")], "/etc/passwd").as_deref(), Some("/files/etc/passwd"));
        assert_eq!(address(&[], "/any/file").as_deref(), Some("/any/file"));
    }

    #[test]
    fn names_in_a_uri_are_encoded() {
        let map = &[("/srv/f", "/a b")][..];
        for (name, expected) in [
            ("a b.txt", "/a%20b/a%20b.txt"),
            ("100%.txt", "/a%20b/100%25.txt"),
            ("a%20b", "/a%20b/a%2520b"),
            ("a?b#c+d;e", "/a%20b/a%3Fb%23c%2Bd%3Be"),
            ("h\u{e9}/\u{12097}", "/a%20b/h%C3%A9/%F0%92%82%97"),
            ("a\r\nSet-Cookie: x", "/a%20b/a%0D%0ASet-Cookie%3A%20x"),
        ] {
            assert_eq!(address(map, &format!("/srv/f/{name}")).as_deref(), Some(expected), "{name}");
        }
    }

    #[test]
    fn a_raw_name_that_proxies_read_differently_has_no_address() {
        let raw = Sendfile::new("X-Sendfile", Form::Raw, [(&b"/srv/f"[..], &b"/"[..])]);
        for name in ["a b.txt", "h\u{e9}", "a+b;c&d", "\"'\\{a}"] {
            let address = raw.address(format!("/srv/f/{name}").as_bytes());
            assert_eq!(address.as_deref(), Some(format!("/{name}").as_bytes()), "{name}");
        }
        for name in ["100%", "a%20b", "a?b", "a#b", "a\nb", "a\rb", "a\tb", "a\x7fb", "a "] {
            assert_eq!(raw.address(format!("/srv/f/{name}").as_bytes()), None, "{name}");
        }
        let orders = ProxyHeaders::new(Vec::new(), Some(raw));
        assert!(permitted(&orders, "X-Sendfile: /a b.txt"));
        assert!(!permitted(&orders, "X-Sendfile: /a%20b.txt"));
        assert!(!permitted(&orders, "X-Sendfile: /../etc/passwd"));
        assert!(!permitted(&orders, "X-Sendfile: etc/passwd"));
    }

    fn permitted(orders: &ProxyHeaders, line: &str) -> bool {
        let block = format!("Content-Type: text/plain\r\n{line}\r\n\r\n");
        match Head::parse(block.as_bytes()) {
            Ok(Status::Complete { head, .. }) => orders.permit(&head),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn families_are_guarded_and_not_names() {
        let none = ProxyHeaders::default();
        let allowed = ["X-Accel-Expires", "x-sendfile2"].map(str::to_owned).to_vec();
        let some = ProxyHeaders::new(allowed, None);
        for (name, guarded, still_guarded, replaces_body) in [
            ("X-Sendfile", true, true, true),
            ("X-SENDFILE2", true, false, true),
            ("X-Sendfile-Temporary", true, true, true),
            ("X-LIGHTTPD-send-file", true, true, true),
            ("x-lighttpd-KBytes-per-second", true, true, false),
            ("X-Accel-Redirect", true, true, true),
            ("X-Accel-Expires", true, false, false),
            ("X-Accel-Charset", true, true, false),
            ("X-Accel-Limit-Rate", true, true, false),
            ("X-Accel-Of-Tomorrow", true, true, false),
            ("X-Reproxy-URL", true, true, true),
            ("X-LiteSpeed-Location", true, true, true),
            ("X-LiteSpeed-Cache-Control", true, true, false),
            ("X-Accel-Buffering", false, false, false),
            ("x-accel-buffering", false, false, false),
            ("X-Accel", false, false, false),
            ("X-Send", false, false, false),
            ("X-Sent-File", false, false, false),
            ("Sendfile", false, false, false),
        ] {
            assert_eq!(none.guards(name.as_bytes()), guarded, "{name}");
            assert_eq!(permitted(&none, &format!("{name}: /etc/hostname 0-10")), !guarded, "{name}");
            assert_eq!(some.guards(name.as_bytes()), still_guarded, "{name}");
            assert_eq!(super::replaces_body(name.as_bytes()), replaces_body, "{name}");
        }
        // A head is looked at only where it has a name that begins so.
        assert!(FAMILIES.iter().all(|family| family.starts_with("X-")));
        // A message for operators and the families: one list.
        assert_eq!(
            ORDERS_SHOWN.replace("* or ", "*, ").split(", ").collect::<Vec<_>>(),
            FAMILIES.map(|it| format!("{it}*"))
        );
    }

    #[test]
    fn a_head_holds_no_order_but_a_file_under_a_prefix() {
        let none = ProxyHeaders::default();
        let some = ProxyHeaders::new(Vec::new(), Some(sendfile(&[("/srv/f", "/files"), ("/srv/g", "/a b")])));
        for (line, with_none, with_some) in [
            ("X-Other: /etc/passwd", true, true),
            ("X-Accel-Buffering: no", true, true),
            ("X-Accel-Expires: 5", false, false),
            ("Content-Length: 0", true, true),
            ("X-Accel-Redirect: /files/a.txt", false, true),
            ("x-accel-redirect: /files/a%20b", false, true),
            ("X-Accel-Redirect:/a%20b/c", false, true),
            ("X-Sendfile: /files/a.txt", false, false),
            ("x-SENDFILE: /files/a.txt", false, false),
            ("X-Accel-Redirect: /a b/c", false, false),
            ("X-Accel-Redirect: /files", false, false),
            ("X-Accel-Redirect: /files2/a", false, false),
            ("X-Accel-Redirect: /srv/f/a", false, false),
            ("X-Accel-Redirect: /files/../etc", false, false),
            ("X-Accel-Redirect: /files/..", false, false),
            ("X-Accel-Redirect: /files/%2e%2e/etc", false, false),
            ("X-Accel-Redirect: /files/a%2F..%2F..%2Fetc", false, false),
            ("X-Accel-Redirect: /files//a", false, false),
            ("X-Accel-Redirect: /files/a?b", false, false),
            ("X-Accel-Redirect: /files/a%3fb", false, false),
            ("X-Accel-Redirect: @named", false, false),
            ("X-Accel-Redirect: files/a", false, false),
            ("X-Accel-Redirect:", false, false),
            ("X-Accel-Redirect: /files/a\r\nX-Accel-Redirect: /etc", false, false),
        ] {
            assert_eq!(permitted(&none, line), with_none, "{line} without sendfile");
            assert_eq!(permitted(&some, line), with_some, "{line} with sendfile");
        }
        let anywhere = ProxyHeaders::new(Vec::new(), Some(sendfile(&[])));
        assert!(permitted(&anywhere, "X-Accel-Redirect: /any/file"));
        assert!(!permitted(&anywhere, "X-Accel-Redirect: /any/../file"));
    }

    #[test]
    fn every_address_is_permitted() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let orders = ProxyHeaders::new(Vec::new(), Some(sendfile(&[("/d", "/p"), ("/d/e", "/")])));
        for _ in 0..20_000 {
            let length = random.usize(1..12);
            let alphabet = b"/.%de2\n?\xc3\xa9 ";
            let name: Vec<u8> = (0..length).map(|_| alphabet[random.usize(..alphabet.len())]).collect();
            let Some(path) = normalise(&[b"/d/", &name[..]].concat()) else { continue };
            let Some(value) = orders.sendfile().unwrap().address(&path) else { continue };
            assert!(orders.permit_field(b"X-Accel-Redirect", &value), "seed {seed}: {}", path.escape_ascii());
        }
    }
}
