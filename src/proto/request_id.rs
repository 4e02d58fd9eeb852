//! The id of a request, in every log line about it, and for the application as `nibiru.request_id`.

use std::fmt;
use std::ops::Deref;

/// Longest `X-Request-Id` that is accepted, in bytes: a UUID has 36 characters, a W3C trace parent 55.
const MAX_LENGTH: usize = 64;

/// The byte behind an id.
const PADDING: u8 = b'-';

/// The id of a request: ASCII that is harmless in a log line and in a header. Held in place, because every request has one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestId {
    /// [`PADDING`] after the first `length` bytes.
    bytes: [u8; MAX_LENGTH],
    length: u8,
}

impl RequestId {
    /// An id from the proxy, unless it is empty, too long, or harmful.
    pub(crate) fn of_proxy(value: &[u8]) -> Option<Self> {
        let length = u8::try_from(value.len()).ok()?;
        let mut bytes = [PADDING; MAX_LENGTH];
        bytes.get_mut(..value.len()).filter(|bytes| !bytes.is_empty())?.copy_from_slice(value);
        // All bytes are looked at, many at a time, because the padding is harmless.
        let harmless = bytes.iter().fold(true, |all, byte| all & is_harmless(*byte));
        harmless.then_some(Self { bytes, length })
    }

    /// The id of sixteen hexadecimal digits for a request without one.
    pub(crate) fn of_number(number: u64) -> Self {
        let mut id = Self { bytes: [PADDING; MAX_LENGTH], length: 16 };
        let mut rest = number;
        for byte in id.bytes[..usize::from(id.length)].iter_mut().rev() {
            *byte = b"0123456789abcdef"[usize::from(rest.to_le_bytes()[0] % 16)];
            rest /= 16;
        }
        id
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl Deref for RequestId {
    type Target = str;

    fn deref(&self) -> &str {
        str::from_utf8(self.as_bytes()).expect("harmless bytes are ASCII")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Whether a byte is harmless in a log line and in a header: a letter, a digit, or one of `-./:+=_`. Without branches.
fn is_harmless(byte: u8) -> bool {
    let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    let within = |first: u8, last: u8| byte.wrapping_sub(first) <= last - first;
    letter | within(b'-', b':') | (byte == b'+') | (byte == b'=') | (byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_of_the_proxy_is_kept_only_where_it_is_harmless() {
        for good in ["4bf92f35-77b3_4da6.1", "a:b+c/d=", &"a".repeat(MAX_LENGTH)] {
            let id = RequestId::of_proxy(good.as_bytes()).unwrap();
            assert_eq!((&*id, id.as_bytes()), (good, good.as_bytes()));
            assert_eq!(format!("{id} {id:?}"), format!("{good} {good:?}"));
        }
        for bad in [&b""[..], b"a b", b"a\nb", b"\"", b"\xff", b"\0", &[b'a'; 65], &[b'a'; 257]] {
            assert_eq!(RequestId::of_proxy(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn harmless_bytes_are_letters_digits_and_a_few_signs() {
        for byte in 0..=u8::MAX {
            let expected = byte.is_ascii_alphanumeric() || b"-_.:+/=".contains(&byte);
            assert_eq!(RequestId::of_proxy(&[b'a', byte]).is_some(), expected, "{byte}");
        }
    }

    #[test]
    fn a_number_has_sixteen_digits() {
        assert_eq!(&*RequestId::of_number(0x0123_4567_89ab_cdef), "0123456789abcdef");
        assert_eq!(&*RequestId::of_number(1), "0000000000000001");
    }
}
