//! PATH_INFO (RFC 3875 §4.1.5) and the variables beside it that name the same path.

/// Whether PATH_INFO lacks the path that it should hold, as with nginx's own `fastcgi_params`. Each variable is empty where the
/// proxy sent none, `path_info` is `None`.
///
/// A request to the very place at which an application is mounted, `/blog`, rightly has an empty PATH_INFO. Proxies that send no
/// DOCUMENT_URI are not judged.
pub(super) fn is_lacking(script_name: &[u8], path_info: Option<&[u8]>, document_uri: &[u8]) -> bool {
    if document_uri.is_empty() {
        return false;
    }
    match path_info {
        // nginx sends no PATH_INFO only if it is not configured.
        None => true,
        // A place at which an application is mounted does not end with a slash.
        Some(b"") => script_name.is_empty() || script_name == document_uri && script_name.ends_with(b"/"),
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginx_own_parameters_are_recognised_and_a_mount_is_not() {
        // nginx and Caddy send DOCUMENT_URI, lighttpd, HAProxy and Apache do not.
        for (script_name, path_info, document_uri, expected) in [
            ("/a", None, "/a", true),
            ("/", None, "/", true),
            ("/", Some(""), "/", true),
            ("/a/", Some(""), "/a/", true),
            ("/blog", Some(""), "/blog", false),
            ("/blog", Some("/a"), "/blog/a", false),
            ("", Some("/a"), "/a", false),
            ("", None, "/a", true),
            ("", Some(""), "/a", true),
            ("/a", None, "", false),
            ("", Some("/a"), "", false),
            ("", None, "", false),
        ] {
            let lacking =
                is_lacking(script_name.as_bytes(), path_info.map(str::as_bytes), document_uri.as_bytes());
            assert_eq!(lacking, expected, "{script_name} {path_info:?} {document_uri}");
        }
    }
}
