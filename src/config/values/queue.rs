//! Settings of the queue: its order, and the FastCGI parameters by which the proxy decides it.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;

use super::value::{Value, expected};

/// The order in which waiting requests are dispatched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QueueOrder {
    /// First come, first served; in an overload in which clients give up the newest first, and the oldest are refused
    Adaptive,
    /// The same in every overload, whether or not clients give up
    Codel,
    /// First come, first served
    Fifo,
}

/// The longest name of a parameter, in bytes; beyond is a slip.
const MAX_NAME: usize = 64;

/// The name of a FastCGI parameter that the proxy sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamName(pub String);

impl FromStr for ParamName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let named = (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(plain);
        if named { Ok(Self(text.to_owned())) } else { Err(expected::<Self>()) }
    }
}

impl Value for ParamName {
    const EXPECTED: &'static str = "the name of a FastCGI parameter, such as REQUEST_START";
}

impl fmt::Display for ParamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a FastCGI parameter that marks requests which go first. No client can write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriorityParam(pub String);

/// CGI parameters that hold the client's text.
const OF_THE_CLIENT: [&str; 15] = [
    "AUTH_TYPE",
    "CONTENT_LENGTH",
    "CONTENT_TYPE",
    "DOCUMENT_URI",
    "PATH_INFO",
    "PATH_TRANSLATED",
    "QUERY_STRING",
    "REMOTE_IDENT",
    "REQUEST_METHOD",
    "REQUEST_URI",
    "SCRIPT_FILENAME",
    "SCRIPT_NAME",
    "SCRIPT_URL",
    "SERVER_NAME",
    "SERVER_PROTOCOL",
];

impl FromStr for PriorityParam {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ParamName(name) = text.parse().map_err(|_| expected::<Self>())?;
        let upper = name.to_ascii_uppercase();
        if upper.starts_with("HTTP_") {
            return Err("a client's header, so that every client could go first; use a parameter that the proxy sets, such \
                        as QUEUE_PRIORITY"
                .to_owned());
        }
        if OF_THE_CLIENT.contains(&upper.as_str()) {
            return Err("the client writes it, so that every client could go first; use a parameter of its own, such as \
                        QUEUE_PRIORITY"
                .to_owned());
        }
        Ok(Self(name))
    }
}

impl Value for PriorityParam {
    const EXPECTED: &'static str = "the name of a FastCGI parameter, such as QUEUE_PRIORITY";
}

impl fmt::Display for PriorityParam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_can_never_write_what_says_whose_turn_it_is() {
        for header in
            ["HTTP_X_PRIORITY", "http_x_priority", "HTTP_", "CONTENT_TYPE", "Query_String", "REQUEST_METHOD"]
        {
            let cause = header.parse::<PriorityParam>().expect_err(header);
            assert!(cause.contains("every client could go first"), "{cause}");
        }
        for other in ["QUEUE_PRIORITY", "REMOTE_USER", "x1"] {
            assert_eq!(other.parse(), Ok(PriorityParam(other.to_owned())));
        }
        for none in ["", "X-Request-Start", "a b", &"A".repeat(65)] {
            assert!(none.parse::<PriorityParam>().is_err() && none.parse::<ParamName>().is_err(), "{none}");
        }
        // The start may be a header: Heroku's router overwrites a client's.
        assert!("HTTP_X_REQUEST_START".parse::<ParamName>().is_ok());
    }
}
