//! Paths of URIs: percent coding, and their normal form.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// Every byte but the unreserved characters of RFC 3986 §2.3 and the slash.
const RESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Decodes a percent-encoded path. Invalid encodings stay as they are.
pub fn percent_decode(path: impl AsRef<[u8]>) -> Vec<u8> {
    percent_encoding::percent_decode(path.as_ref()).collect()
}

/// Encodes a path: each reserved byte as `%XX`, so that no proxy finds a query, a plus that means a space, or a line break in it.
pub fn percent_encode(path: &[u8]) -> String {
    percent_encoding::percent_encode(path, RESERVED).to_string()
}

/// A decoded path without `//`, `/./` and `/../`, as nginx passes it on; `None` where it leads out of the root.
pub fn normalise(path: &[u8]) -> Option<Vec<u8>> {
    let segments: Vec<&[u8]> = path.strip_prefix(b"/")?.split(|byte| *byte == b'/').collect();
    let mut kept: Vec<&[u8]> = Vec::with_capacity(segments.len());
    let mut directory = false;
    for segment in segments {
        directory = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => {
                kept.pop()?;
            }
            segment => kept.push(segment),
        }
    }
    let mut normal = [b"/", &kept.join(&b'/')[..]].concat();
    if directory && !kept.is_empty() {
        normal.push(b'/');
    }
    Some(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_and_what_is_no_encoding_stays() {
        assert_eq!(percent_decode("/caf%C3%A9/%2f%"), "/café//%".as_bytes());
        assert_eq!(percent_decode("%zz%4"), b"%zz%4");
    }

    #[test]
    fn a_path_survives_its_encoding() {
        let path = "/a b/%41?#é\"~".as_bytes();
        assert_eq!(percent_encode(path), "/a%20b/%2541%3F%23%C3%A9%22~");
        assert_eq!(percent_decode(percent_encode(path)), path);
    }

    #[test]
    fn paths_become_what_nginx_makes_of_them() {
        for (path, normal) in [
            ("/", "/"),
            ("//", "/"),
            ("/a//b/", "/a/b/"),
            ("/a/./b", "/a/b"),
            ("/a/b/..", "/a/"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/.", "/"),
            ("/...", "/..."),
        ] {
            assert_eq!(normalise(path.as_bytes()).as_deref(), Some(normal.as_bytes()), "{path}");
        }
        for out in ["/..", "/a/../..", "/../a", "", "a"] {
            assert_eq!(normalise(out.as_bytes()), None, "{out}");
        }
    }
}
