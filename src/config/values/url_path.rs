//! The path of a URL at which the server itself answers.

use std::str::FromStr;

use super::value::{Value, expected};

/// The path of a URL, which begins with a slash and has no query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlPath(pub String);

impl FromStr for UrlPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#%".contains(&byte);
        if text.starts_with('/') && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(expected::<Self>())
        }
    }
}

impl Value for UrlPath {
    const EXPECTED: &'static str = "a path such as /-/status, without a query";
}
