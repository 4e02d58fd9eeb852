//! Response headers by which an application gives its proxy orders, and the orders that pass.
//!
//! The gateway checks every head by [`ProxyHeaders::permit`], since a worker can write any bytes.

use super::response::Head;
use super::sendfile::Sendfile;

/// The beginnings of the names of orders: nginx's; lighttpd's and Apache's mod_xsendfile's; lighttpd's; H2O's; LiteSpeed's.
/// Families are guarded and not names, since the list of each proxy grows with its versions (`X-Sendfile2`,
/// `X-Sendfile-Temporary`, which deletes the file).
const FAMILIES: [&str; 5] = ["X-Accel-", "X-Sendfile", "X-LIGHTTPD-", "X-Reproxy-", "X-LiteSpeed-"];

/// A header of a family that is no order: nginx only buffers this one response, or does not.
const HARMLESS: &str = "X-Accel-Buffering";

/// The beginnings of the names of orders by which the proxy sends another body in the response's place.
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

/// Whether a header of this name has the proxy send another body in the response's place.
pub fn replaces_body(name: &[u8]) -> bool {
    begins_with_any(name, &SENDING)
}

/// The names of orders as messages show them.
pub const ORDERS_SHOWN: &str = "X-Accel-*, X-Sendfile*, X-LIGHTTPD-*, X-Reproxy-* or X-LiteSpeed-*";

fn begins_with_any(name: &[u8], beginnings: &[&str]) -> bool {
    let begins =
        |with: &&str| name.get(..with.len()).is_some_and(|it| it.eq_ignore_ascii_case(with.as_bytes()));
    beginnings.iter().any(begins)
}

/// The orders that may pass to the proxy.
#[derive(Clone, Debug, Default)]
pub struct ProxyHeaders {
    /// The orders that the application may send itself. Others pass only as the [`Sendfile`]'s.
    allowed: Vec<String>,
    sendfile: Option<Sendfile>,
}

impl ProxyHeaders {
    /// `allowed`: names of orders that the application may send.
    pub fn new(allowed: Vec<String>, sendfile: Option<Sendfile>) -> Self {
        Self { allowed, sendfile }
    }

    /// Whether a header of this name is an order that the application may not send.
    pub fn guards(&self, name: &[u8]) -> bool {
        is_order(name) && !self.allowed.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
    }

    /// The header by which the proxy sends a file.
    pub fn sendfile(&self) -> Option<&Sendfile> {
        self.sendfile.as_ref()
    }

    /// Whether all orders for the proxy in the head are allowed.
    pub fn permit(&self, head: &Head<'_>) -> bool {
        // Most heads have no such header, and need no second pass.
        !head.has_extensions() || head.fields().all(|(name, value)| self.permit_field(name, value))
    }

    fn permit_field(&self, name: &[u8], value: &[u8]) -> bool {
        let is_ours = |sendfile: &Sendfile| {
            name.eq_ignore_ascii_case(sendfile.header().as_bytes()) && sendfile.leads_to_a_file(value)
        };
        !self.guards(name) || self.sendfile.as_ref().is_some_and(is_ours)
    }
}

#[cfg(test)]
mod tests {
    use super::super::path::normalise;
    use super::super::response::Status;
    use super::super::sendfile::Form;
    use super::*;

    fn sendfile(map: &[(&str, &str)]) -> Sendfile {
        let map = map.iter().map(|(directory, prefix)| (directory.as_bytes(), prefix.as_bytes()));
        Sendfile::new("X-Accel-Redirect", Form::Uri, map)
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
