//! The paths that the server answers itself, and the shape of an answer there.

use crate::cgi::{Variables, response};
use crate::config::Config;
use crate::fastcgi::Role;
use crate::gateway::telemetry::request_line::RequestLine;

/// A path of the server's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `--health-path`
    Health,
    /// `--status-path`
    Status,
}

impl Endpoint {
    /// The endpoint that a request with these variables is for; `None` for a request to the application.
    pub(crate) fn of(variables: &Variables, role: Role, config: &Config) -> Option<Self> {
        let paths = [(&config.health_path, Self::Health), (&config.status_path, Self::Status)];
        // A 200 to an Authorizer would be consent.
        if role != Role::Responder || paths.iter().all(|(path, _)| path.is_none()) {
            return None;
        }
        let uri = RequestLine::of(variables).uri;
        let is_at = |path: &Option<String>| path.as_ref().is_some_and(|path| uri.is_at(path));
        paths.into_iter().find(|(path, _)| is_at(path)).map(|(_, endpoint)| endpoint)
    }
}

/// An answer of the server's own: a CGI head, and a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Page {
    /// The answer to a request with this method, where `page` is the answer to GET.
    pub(crate) fn for_method(method: &[u8], page: impl FnOnce() -> Self) -> Self {
        match method {
            b"GET" => page(),
            b"HEAD" => Self { body: String::new(), ..page() },
            _ => Self::not_allowed(),
        }
    }

    fn not_allowed() -> Self {
        let body = "405 Method Not Allowed: this is there for GET and HEAD\n";
        let head = format!(
            "Status: 405 {reason}\r\nAllow: GET, HEAD\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {length}\r\nCache-Control: no-store\r\n\r\n",
            reason = response::reason(405),
            length = body.len(),
        );
        Self { head, body: body.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;

    fn config(health: Option<&str>, status: Option<&str>) -> Config {
        let mut config = Config::new(Options { app: Some("a".into()), ..Options::default() }).unwrap();
        (config.health_path, config.status_path) = (health.map(str::to_owned), status.map(str::to_owned));
        config
    }

    #[test]
    fn an_endpoint_is_a_path_that_is_configured_and_a_responders() {
        let (health, status) = (Some("/health"), Some("/status"));
        for (path, role, config, endpoint) in [
            ("/health", Role::Responder, config(health, status), Some(Endpoint::Health)),
            ("/status", Role::Responder, config(health, status), Some(Endpoint::Status)),
            ("/status", Role::Responder, config(health, None), None),
            ("/status/", Role::Responder, config(health, status), None),
            ("/status", Role::Authorizer, config(health, status), None),
            ("/health", Role::Filter, config(health, status), None),
            ("/a", Role::Responder, config(Some("/a"), Some("/a")), Some(Endpoint::Health)),
            ("", Role::Responder, config(None, None), None),
        ] {
            let mut variables = Variables::new();
            variables.push(b"PATH_INFO", path.as_bytes());
            assert_eq!(Endpoint::of(&variables, role, &config), endpoint, "{path} {role:?}");
        }
    }

    #[test]
    fn head_has_no_body_and_other_methods_are_not_allowed() {
        let get = || Page { head: "Status: 200 OK\r\n\r\n".to_owned(), body: "ok\n".to_owned() };
        assert_eq!(Page::for_method(b"GET", get), get());
        assert_eq!(Page::for_method(b"HEAD", get), Page { body: String::new(), ..get() });
        let refused = Page::for_method(b"POST", || unreachable!());
        assert!(refused.head.starts_with("Status: 405 Method Not Allowed\r\nAllow: GET, HEAD\r\n"));
    }
}
