//! Paths of URIs: percent coding, and their normal form.

/// Decodes a percent-encoded path. Invalid encodings stay as they are.
pub fn percent_decode(path: impl AsRef<[u8]>) -> Vec<u8> {
    let path = path.as_ref();
    let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if let (b'%', [high, low, after @ ..]) = (first, tail)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            decoded.push(high << 4 | low);
            rest = after;
        } else {
            decoded.push(*first);
        }
    }
    decoded
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

/// Encodes a path: every byte but the unreserved characters of RFC 3986 §2.3 and the slash as `%XX`, so that no proxy finds a query,
/// a plus that means a space, or a line break in it.
pub(super) fn percent_encode(path: &[u8]) -> Vec<u8> {
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
    use super::*;

    #[test]
    fn paths_are_decoded_and_what_is_no_encoding_stays() {
        assert_eq!(percent_decode("/caf%C3%A9/%2f%"), "/café//%".as_bytes());
        assert_eq!(percent_decode("%zz%4"), b"%zz%4");
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
