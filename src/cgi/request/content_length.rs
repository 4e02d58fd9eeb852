//! The length of a request's body, as CONTENT_LENGTH gives it, or of a Filter's data, as FCGI_DATA_LENGTH does.

use super::super::syntax;
use super::bad_request::BadRequest;

/// The length of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentLength {
    /// Bytes of the body: the application reads no more, and a request with fewer fails.
    Known(u64),
    /// Every byte that arrives until STDIN ends. nginx and Apache send this where they do not know the length.
    UntilEnd,
}

impl ContentLength {
    /// Reads the value of the variable `name`. Absent, empty and `-1` all mean that the length is not known.
    ///
    /// # Errors
    /// For any other value. Signs, spaces and lists are refused: a proxy that reads them in another way would see another
    /// request.
    pub(super) fn parse(name: &'static [u8], value: &[u8]) -> Result<Self, BadRequest> {
        match value {
            b"" | b"-1" => Ok(Self::UntilEnd),
            _ => match syntax::parse_length(value) {
                Some(length) => Ok(Self::Known(length)),
                None => Err(BadRequest::Length { name, value: value.to_vec() }),
            },
        }
    }
}
