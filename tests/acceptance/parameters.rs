//! Repeated parameters, as each front end really sends them, and the log lines about a proxy's parameters.

use std::process::Command;

use crate::support::front_ends::{self, FrontEnd};
use crate::support::wire::{self, Connection};
use crate::support::{App, Kind, Proxy, Reply, Server, ServerBuilder, curl, output};

/// Headers by which clients try to forge a header that the front end sets: once, twice, and in other spellings.
const FORGED: [&[&str]; 6] = [
    &[],
    &["X-User: forged"],
    &["X-User: forged", "X-User: again"],
    &["X_User: forged"],
    &["X-User: forged", "X_User: again"],
    &["x_user: forged", "X-User: again"],
];

/// An application that answers every path with its environ, as lines `NAME=value`.
fn environs() -> (App, ServerBuilder) {
    let app = App::new(
        "return function(environ, start_response)
          start_response('200 OK', { { 'Content-Type', 'text/plain' } })
          local lines = {}
          for name, value in pairs(environ) do
            if type(value) == 'string' then lines[#lines + 1] = name .. '=' .. value .. '\\n' end
          end
          return lines
        end",
    );
    let builder = Server::builder().application(app.root(), "app");
    (app, builder)
}

/// The value of one variable in a response of [`environs`].
fn value(reply: &Reply, name: &str) -> Option<String> {
    let text = reply.text();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}

/// HTTP_X_USER in the application for each of [`FORGED`].
fn users(mut command: impl FnMut() -> Command) -> Vec<String> {
    let users = FORGED.map(|headers| {
        let mut curl = command();
        headers.iter().for_each(|header| {
            curl.args(["--header", header]);
        });
        let reply = Reply::of(&mut curl).expect(200);
        value(&reply, "HTTP_X_USER").unwrap_or_else(|| "-".to_owned())
    });
    users.to_vec()
}

#[track_caller]
fn all_are_configured(what: &str, users: Vec<String>) {
    for (user, headers) in users.iter().zip(FORGED) {
        assert_eq!(user, "configured", "{what}: the client sent {headers:?}");
    }
}

/// A proxy whose file of `deploy/` has `line` in place of `anchor`.
#[track_caller]
fn with_line(kind: Kind, server: &Server, anchor: &str, line: &str) -> Proxy {
    Proxy::with_edits(kind, server, |site| {
        assert!(site.contains(anchor), "{kind:?} has no {anchor}");
        site.replace(anchor, line)
    })
}

/// The forms of configuration that docs/reference/fastcgi.md recommends.
#[test]
fn a_configured_header_replaces_the_clients() {
    let (_app, builder) = environs();
    let server = builder.start();
    for (kind, anchor, line) in [
        (Kind::Nginx, "server_tokens off;", "server_tokens off; underscores_in_headers on;"),
        (Kind::OldCaddy, "\timport nibiru /", "\trequest_header X-User configured\n\timport nibiru /"),
        (Kind::NewCaddy, "\timport nibiru /", "\trequest_header X-User configured\n\timport nibiru /"),
        (
            Kind::HaProxy,
            "    default_backend",
            "    http-request set-header X-User configured\n    default_backend",
        ),
        (
            Kind::HaProxy,
            "    option keep-conn\n",
            "    option keep-conn\n    set-param HTTP_X_USER configured\n",
        ),
    ] {
        let proxy = if kind == Kind::Nginx {
            Proxy::with_edits(kind, &server, |site| {
                let set = "include nibiru_params; fastcgi_param HTTP_X_USER configured;";
                site.replace(anchor, line).replace("include nibiru_params;", set)
            })
        } else {
            with_line(kind, &server, anchor, line)
        };
        all_are_configured(&format!("{kind:?}, {line}"), users(|| curl([], &proxy.url("/"))));
    }
    for (kind, site) in [
        (front_ends::Kind::Apache, "RequestHeader set X-User configured"),
        (front_ends::Kind::Apache, "ProxyFCGISetEnvIf true HTTP_X_USER configured"),
        (front_ends::Kind::Lighttpd, "setenv.set-environment = ( \"HTTP_X_USER\" => \"configured\" )"),
    ] {
        let (_app, front_end) = plain(kind, site);
        all_are_configured(site, users(|| front_end.curl_command([], "/plain/a")));
    }
}

/// The forms that the same page warns of: nibiru cannot tell these values from the front end's.
#[test]
fn some_forms_of_a_configured_header_let_the_clients_through() {
    let (_app, builder) = environs();
    let server = builder.start();
    for kind in [Kind::OldCaddy, Kind::NewCaddy] {
        let import = format!("\timport nibiru {}", server.socket().display());
        let own = format!(
            "\treverse_proxy unix/{} {{\n\t\ttransport fastcgi {{\n\t\t\tenv HTTP_X_USER configured\n\t\t}}\n\t}}",
            server.socket().display()
        );
        let proxy = with_line(kind, &server, &import, &own);
        let users = users(|| curl([], &proxy.url("/")));
        assert_eq!(users[..2], ["configured", "forged"], "{kind:?}");
    }
    let (_app, front_end) = plain(front_ends::Kind::Apache, "SetEnv HTTP_X_USER configured");
    assert_eq!(users(|| front_end.curl_command([], "/plain/a"))[..2], ["configured", "forged"]);
    let site = "setenv.set-request-header = ( \"X-User\" => \"configured\" )";
    let (_app, front_end) = plain(front_ends::Kind::Lighttpd, site);
    let users = users(|| front_end.curl_command([], "/plain/a"));
    assert_eq!(users[..5], ["configured", "configured", "configured", "configured", "again"]);
}

/// Apache or lighttpd in front of [`environs`] under `/plain/`, with additional `lines` of configuration.
#[track_caller]
fn plain(kind: front_ends::Kind, lines: &str) -> (App, FrontEnd) {
    let (app, builder) = environs();
    let front_end = FrontEnd::with_edits(kind, builder, |site| match kind {
        front_ends::Kind::Apache => {
            let socket = between(&site, "unix:", "|");
            let modules = ["headers", "env"]
                .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"));
            let pass = format!("ProxyPass \"/plain/\" \"unix:{socket}|fcgi://localhost/\"\n");
            format!("{}{site}\n{pass}{lines}\n", modules.concat())
        }
        front_ends::Kind::Lighttpd => {
            let socket = between(&site, "\"socket\" => \"", "\"");
            let plain =
                format!("\"/plain/\" => (( \"socket\" => \"{socket}\", \"check-local\" => \"disable\" ))");
            format!("server.modules += ( \"mod_setenv\" )\n{site}\nfastcgi.server += ( {plain} )\n{lines}\n")
        }
    });
    (app, front_end)
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let start = text.find(before).expect("the site has the text before") + before.len();
    text[start..].split(after).next().unwrap_or_default()
}

/// nginx 1.22 and HAProxy pass repeated headers on one by one; Caddy and lighttpd join them.
#[test]
fn repeated_headers_are_joined_or_the_last_counts_or_are_400() {
    let (_app, builder) = environs();
    let server = builder.start();
    for kind in [Kind::Nginx, Kind::HaProxy] {
        let proxy = Proxy::start(kind, &server);
        let twice = ["-H", "Accept: a/b", "-H", "Accept: c/d", "-H", "Cookie: a=1", "-H", "Cookie: b=2"];
        let more = [
            "-H",
            "X-Forwarded-For: 192.0.2.1",
            "-H",
            "X-Forwarded-For: 192.0.2.2",
            "-H",
            "X-A: 1",
            "-H",
            "X-A: 2",
        ];
        let reply = Reply::of(proxy.curl_command(twice, "/").args(more)).expect(200);
        for (name, expected) in [
            ("HTTP_ACCEPT", "a/b, c/d"),
            ("HTTP_COOKIE", "a=1; b=2"),
            ("HTTP_X_FORWARDED_FOR", "192.0.2.1, 192.0.2.2"),
            ("HTTP_X_A", "2"),
        ] {
            assert_eq!(value(&reply, name).as_deref(), Some(expected), "{kind:?} {name}");
        }
        let refused = proxy.curl(["-H", "Authorization: Bearer a", "-H", "Authorization: Bearer b"], "/");
        assert_eq!(refused.status, 400, "{kind:?}");
        if kind == Kind::HaProxy {
            let expected = "400 Bad Request: HTTP_AUTHORIZATION came twice, with different values\n";
            assert_eq!(refused.text(), expected);
        }
    }
    assert!(
        !server.log().contains("more than once"),
        "repeated headers of clients are not logged:\n{}",
        server.log()
    );
}

/// The usual `include fastcgi_params;` with own lines below it. php-fpm 8.2 takes the last value, too.
#[test]
fn the_last_value_of_a_repeated_parameter_counts() {
    let (_app, builder) = environs();
    let server = builder.start();
    let proxy = with_line(
        Kind::Nginx,
        &server,
        "include nibiru_params;",
        "include /etc/nginx/fastcgi.conf;
         fastcgi_param SCRIPT_NAME \"\"; fastcgi_param SCRIPT_FILENAME /srv/app/index;
         fastcgi_param REMOTE_ADDR 192.0.2.7; fastcgi_param REMOTE_USER enki; fastcgi_param HTTPS on;
         fastcgi_param CONTENT_LENGTH \"\"; fastcgi_param PATH_INFO $uri;",
    );
    for data in ["", "four"] {
        let reply = proxy.curl(["--data", data], "/a/b").expect(200);
        for (name, expected) in [
            ("SCRIPT_NAME", ""),
            ("PATH_INFO", "/a/b"),
            ("SCRIPT_FILENAME", "/srv/app/index"),
            ("REMOTE_ADDR", "192.0.2.7"),
            ("REMOTE_USER", "enki"),
            ("HTTPS", "on"),
            ("wsgi.url_scheme", "https"),
        ] {
            assert_eq!(value(&reply, name).as_deref(), Some(expected), "{name}");
        }
    }
    for name in ["SCRIPT_NAME", "SCRIPT_FILENAME", "REMOTE_ADDR", "CONTENT_LENGTH"] {
        let line = format!("the proxy sends {name} more than once; its last value counts");
        server.logged(&["WARN", &line]);
        assert_eq!(server.log().matches(&line).count(), 1);
    }
}

#[test]
fn two_different_content_lengths_are_400() {
    let server = Server::start();
    for (first, second, status) in [("4", "5", 400), ("4", "", 200), ("", "4", 200), ("4", "4", 200)] {
        let mut pairs = wire::pairs(&[("CONTENT_LENGTH", first)]);
        pairs.extend(wire::params("POST", "/echo"));
        pairs.extend(wire::pairs(&[("CONTENT_LENGTH", second)]));
        let mut client = Connection::open(&server.socket());
        client.send(
            &[wire::begin(1, 1, false), wire::stream(4, 1, &pairs), wire::stream(5, 1, b"four")].concat(),
        );
        let response = client.response(1).unwrap();
        assert_eq!(response.status(), status, "{first:?} {second:?}");
        if status == 200 {
            assert_eq!(response.body(), b"four");
        }
    }
}

/// libfcgi's `cgi-fcgi` sends its whole environment and parameters of its own. php-fpm answers it.
#[test]
fn a_request_with_a_whole_environment_as_parameters_is_answered() {
    let (_app, builder) = environs();
    let server = builder.start();
    let mut command = Command::new("cgi-fcgi");
    command.arg("-bind").arg("-connect").arg(server.socket());
    command.env_clear().envs([
        ("REQUEST_METHOD", "GET"),
        ("SCRIPT_NAME", ""),
        ("PATH_INFO", "/health"),
        ("no_proxy", "localhost"),
        ("NO_PROXY", "127.0.0.1"),
        ("http_proxy", "http://a"),
        ("HTTP_PROXY", "http://b"),
        ("path", "/a"),
        ("PATH", "/usr/bin:/bin"),
    ]);
    let answer = output(command.stdin(std::process::Stdio::null()));
    let text = String::from_utf8(answer.stdout).unwrap();
    assert!(answer.status.success() && text.starts_with("Status: 200 OK\r\n"), "{text}");
    for line in ["no_proxy=localhost", "NO_PROXY=127.0.0.1", "path=/a", "PATH_INFO=/health"] {
        assert!(text.lines().any(|other| other == line), "no {line} in:\n{text}");
    }
    assert!(!text.contains("http://"), "{text}");
}

/// nginx sends the client's headers after its own parameters, so a different spelling would let the client's value win.
#[test]
fn a_header_that_collides_with_a_parameter_in_another_spelling_is_400() {
    let server = Server::start();
    for name in ["http_x_user", "HTTP_X-User"] {
        let proxy = Proxy::with_edits(Kind::Nginx, &server, |site| {
            let set = format!("include nibiru_params; fastcgi_param {name} configured;");
            site.replace("include nibiru_params;", &set)
        });
        proxy.curl([], "/hello").expect(200);
        let refused = proxy.curl(["-H", "X-User: forged"], "/hello").expect(400);
        assert_eq!(refused.text(), format!("400 Bad Request: {name} and HTTP_X_USER cannot be told apart\n"));
    }
}

#[test]
fn a_missing_path_info_from_nginxs_own_parameter_files_is_logged_once() {
    let (_app, builder) = environs();
    let server = builder.start();
    let as_recommended = Proxy::start(Kind::Nginx, &server);
    for path in ["/", "/a", "/a/"] {
        as_recommended.curl([], path).expect(200);
    }
    let mount = Proxy::with_edits(Kind::Nginx, &server, |site| {
        let start = site.find("    # location ~ \"^/blog").expect("the example is in nibiru.conf");
        let (before, example) = site.split_at(start);
        format!("{before}{}", example.replace("    # ", "    "))
    });
    for path in ["/blog", "/blog/", "/blog/a"] {
        mount.curl([], path).expect(200);
    }
    assert!(!server.log().contains("nibiru_params"), "{}", server.log());
    for split in [true, false] {
        for replacement in ["include /etc/nginx/fastcgi_params;", "include /etc/nginx/fastcgi.conf;"] {
            let (_app, builder) = environs();
            let server = builder.start();
            let proxy = Proxy::with_edits(Kind::Nginx, &server, |site| {
                let site = site.replace("include nibiru_params;", replacement);
                if split { site } else { site.replace("fastcgi_split_path_info", "# ") }
            });
            for path in ["/a", "/", "/b"] {
                let reply = proxy.curl([], path).expect(200);
                assert_eq!(value(&reply, "SCRIPT_NAME").as_deref(), Some(if split { "" } else { path }));
            }
            server.logged(&["WARN", "no path in PATH_INFO", "include nibiru_params"]);
            assert_eq!(server.log().matches("nibiru_params").count(), 1, "{}", server.log());
        }
    }
}
