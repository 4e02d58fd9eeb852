//! The header by which the proxy sends a file in the application's place: its value for a file, and the check of a value.

use super::path::{normalise, percent_decode, percent_encode};

/// A header whose value is a file for the proxy to send.
#[derive(Clone, Debug)]
pub struct Sendfile {
    header: &'static str,
    form: Form,
    /// Directories and their paths for the proxy, without a slash at the end; longest first. None: the proxy sees the
    /// application's paths.
    map: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The form of a path in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As a URI's, percent-encoded: X-Accel-Redirect.
    Uri,
    /// As it is: X-Sendfile. lighttpd and newer Caddys decode it all the same, Apache and older Caddys do not, and Caddys
    /// look for a query; so a name that would mean different files to them has no address.
    Raw,
}

impl Form {
    fn write(self, path: &[u8]) -> Option<Vec<u8>> {
        let ambiguous = |byte: &u8| byte.is_ascii_control() || b"%?#".contains(byte);
        match self {
            Self::Uri => Some(percent_encode(path).into_bytes()),
            // A space at the end of a header's value does not belong to it.
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
    /// A header of this name. `map`: absolute directories, and the absolute path of each for the proxy.
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
    pub(super) fn leads_to_a_file(&self, value: &[u8]) -> bool {
        let path = self.form.read(value);
        let under = |prefix: &[u8]| path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(b"/"));
        let known = self.map.is_empty() || self.map.iter().any(|(_, prefix)| under(prefix));
        // A proxy may read a value in another form as another path: a query, a step upwards.
        known && normalise(&path).as_ref() == Some(&path) && self.form.write(&path).as_deref() == Some(value)
    }
}

/// A directory in normal form, without a slash at its end.
fn plain(directory: &[u8]) -> Vec<u8> {
    let mut plain = normalise(directory).unwrap_or_else(|| directory.to_owned());
    while plain.last() == Some(&b'/') {
        plain.pop();
    }
    plain
}

#[cfg(test)]
mod tests {
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
}
