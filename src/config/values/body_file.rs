//! Settings of bodies in files of the proxy's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::queue::ParamName;
use super::value::{Value, expected};

/// The name of the FastCGI parameter with the path of a body's file. No client can write it, and it has no other meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyFileParam(pub String);

/// Parameters that have a meaning in CGI/1.1 (RFC 3875 §4.1), in FastCGI, or in the files that proxies bring along.
const OF_CGI: [&str; 27] = [
    "AUTH_TYPE",
    "CONTENT_LENGTH",
    "CONTENT_TYPE",
    "DOCUMENT_ROOT",
    "DOCUMENT_URI",
    "GATEWAY_INTERFACE",
    "HTTPS",
    "PATH_INFO",
    "PATH_TRANSLATED",
    "QUERY_STRING",
    "REDIRECT_STATUS",
    "REMOTE_ADDR",
    "REMOTE_HOST",
    "REMOTE_IDENT",
    "REMOTE_PORT",
    "REMOTE_USER",
    "REQUEST_METHOD",
    "REQUEST_SCHEME",
    "REQUEST_URI",
    "SCRIPT_FILENAME",
    "SCRIPT_NAME",
    "SCRIPT_URL",
    "SERVER_ADDR",
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
    "SERVER_SOFTWARE",
];

impl FromStr for BodyFileParam {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ParamName(name) = text.parse().map_err(|_| expected::<Self>())?;
        let upper = name.to_ascii_uppercase();
        if upper.starts_with("HTTP_") {
            return Err("a client's header, so that every client could name a file; use a parameter that the proxy sets, such as \
                        REQUEST_BODY_FILE"
                .to_owned());
        }
        if OF_CGI.contains(&upper.as_str()) || upper.starts_with("FCGI_") {
            return Err(
                "it has a meaning of its own; use a parameter that has none, such as REQUEST_BODY_FILE"
                    .to_owned(),
            );
        }
        Ok(Self(name))
    }
}

impl Value for BodyFileParam {
    const EXPECTED: &'static str = "the name of a FastCGI parameter, such as REQUEST_BODY_FILE";
}

impl fmt::Display for BodyFileParam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Files of the proxy's that have bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyFiles {
    /// The parameter with the path of a file.
    pub param: String,
    /// The directory of the files, by the path that was given, and with its links resolved. The proxy may know it by either.
    pub directory: [PathBuf; 2],
}

impl BodyFiles {
    /// The directory, links resolved.
    pub fn resolved(&self) -> &Path {
        &self.directory[1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_can_never_name_a_file_and_no_parameter_means_two_things() {
        for header in ["HTTP_X_FILE", "http_x_file", "HTTP_"] {
            let cause = header.parse::<BodyFileParam>().expect_err(header);
            assert!(cause.contains("every client could name a file"), "{cause}");
        }
        for taken in ["CONTENT_LENGTH", "path_info", "HTTPS", "FCGI_DATA_LENGTH", "SERVER_SOFTWARE"] {
            let cause = taken.parse::<BodyFileParam>().expect_err(taken);
            assert!(cause.contains("has a meaning of its own"), "{cause}");
        }
        for none in ["", "X-File", "a b", "nibiru.file", &"A".repeat(65)] {
            let cause = none.parse::<BodyFileParam>().expect_err(none);
            assert_eq!(cause, "expected the name of a FastCGI parameter, such as REQUEST_BODY_FILE");
        }
        for name in ["REQUEST_BODY_FILE", "x1"] {
            assert_eq!(name.parse(), Ok(BodyFileParam(name.to_owned())));
        }
    }
}
