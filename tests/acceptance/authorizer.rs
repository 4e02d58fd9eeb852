//! nibiru as the authorizer of Apache and lighttpd: requests pass only with its permission, and only the permitted
//! variables reach the application.

use rustix::process::Signal;

use crate::support::front_ends::{FrontEnd, Kind};
use crate::support::{Gate, Kind as ProxyKind, Proxy, Reply, Server, ServerBuilder, repository};

/// A server that is both the authorizer and the application.
fn roles() -> ServerBuilder {
    Server::builder().application(repository("tests/apps"), "roles")
}

/// Runs `test` behind Apache and behind lighttpd.
fn behind_each(builder: impl Fn() -> ServerBuilder, test: impl Fn(&FrontEnd)) {
    for kind in [Kind::Apache, Kind::Lighttpd] {
        eprintln!("behind {kind:?}");
        test(&FrontEnd::start(kind, builder()));
    }
}

#[test]
fn an_authorized_client_gets_the_file_without_the_authorizers_headers() {
    behind_each(roles, |front_end| {
        front_end.protect("/files/open.html", "<p>the file");
        let reply = front_end.curl([], "/files/open.html").expect(200);
        assert_eq!(reply.text(), "<p>the file");
        assert_eq!(reply.header("Content-Type"), Some("text/html"));
        assert_eq!(reply.headers("Content-Length"), ["11"]);
        for leaked in ["Set-Cookie", "Variable-REMOTE_USER", "Variable-TEST_SEEN", "Status"] {
            assert_eq!(reply.header(leaked), None, "{reply:?}");
        }
        front_end.curl(["--head"], "/files/open.html").expect(200);
        assert_eq!(front_end.curl(["--head"], "/files/login.html").status, 401);
    });
}

#[test]
fn variables_of_the_authorizer_reach_the_application() {
    behind_each(roles, |front_end| {
        let data = "a body that only the application gets";
        let reply = front_end.curl(["--data", data], "/members/open.html").expect(200).text();
        let line = |start: &str| reply.lines().find_map(|line| line.strip_prefix(start));
        assert_eq!(line("nibiru.role="), Some("responder"), "{reply}");
        assert_eq!(line("REMOTE_USER="), Some("alice"), "{reply}");
        assert_eq!(line("CONTENT_LENGTH="), Some(&*data.len().to_string()), "{reply}");
        // FCGI_APACHE_ROLE and REMOTE_USER as the authorizer saw them: no user is known yet.
        let seen = if front_end.kind == Kind::Apache { "AUTHENTICATOR,-" } else { "-,-" };
        assert_eq!(line("TEST_SEEN="), Some(seen), "{reply}");
    });
}

#[test]
fn a_denied_client_gets_the_authorizers_own_page() {
    behind_each(roles, |front_end| {
        for (path, status, page) in
            [("/files/login.html", 401, "Who are you?\n"), ("/members/forbidden.html", 403, "You may not.\n")]
        {
            front_end.protect("/files/login.html", "secret");
            let reply = front_end.curl([], path).expect(status);
            assert_eq!(reply.text(), page);
            let challenge = (status == 401).then_some("Basic realm=\"nibiru\"");
            assert_eq!(reply.header("WWW-Authenticate"), challenge);
            assert_eq!(reply.header("Variable-SECRET"), None);
        }
    });
}

#[test]
fn a_failing_authorizer_denies_access() {
    behind_each(
        || roles().workers("1").arguments(["--queue-timeout", "500ms"]),
        |front_end| {
            for (name, status) in
                [("error", 500), ("late", 500), ("killed", 502), ("unfinished", 502), ("nowhere", 404)]
            {
                let path = format!("/files/{name}.html");
                front_end.protect(&path, "secret");
                let reply = front_end.curl([], &path).expect(status);
                assert!(!reply.text().contains("secret"), "{reply:?}");
            }
            // No worker is idle within --queue-timeout.
            let gate = Gate::new();
            front_end.protect("/files/busy.html", "released");
            let mut running = front_end.curl_command([], &gate.url("/files/busy.html")).spawn().unwrap();
            gate.announced("busy");
            front_end.protect("/files/open.html", "secret");
            let reply = front_end.curl([], "/files/open.html").expect(503);
            assert!(!reply.text().contains("secret"), "{reply:?}");
            gate.open("go");
            assert!(running.wait().unwrap().success());
        },
    );
}

#[test]
fn an_authorizer_beyond_its_deadline_denies_access() {
    behind_each(
        || roles().arguments(["--request-timeout", "100ms", "--kill-after", "100ms"]),
        |front_end| {
            let gate = Gate::new();
            front_end.protect("/files/busy.html", "secret");
            let reply = front_end.curl([], &gate.url("/files/busy.html")).expect(504);
            assert!(!reply.text().contains("secret"), "{reply:?}");
        },
    );
}

#[test]
fn a_killed_authorizer_denies_access() {
    behind_each(roles, |front_end| {
        let gate = Gate::new();
        front_end.protect("/files/busy.html", "secret");
        let running = front_end.curl_command([], &gate.url("/files/busy.html")).spawn().unwrap();
        gate.announced("busy");
        front_end.server.signal(Signal::KILL);
        let replies = [
            Reply::from_curl(running.wait_with_output().unwrap()),
            front_end.curl([], "/files/busy.html"),
            front_end.curl([], "/members/open.html"),
        ];
        for reply in replies {
            assert!((500..=503).contains(&reply.status) && !reply.text().contains("secret"), "{reply:?}");
        }
    });
}

/// Apache asks twice where authentication and authorization are checked apart.
#[test]
fn apache_names_the_role_authenticator_or_authorizer_in_each_request() {
    let questions = |site: String| {
        let start = site.find("    AuthType None").unwrap();
        let end = site.find("</LocationMatch>").unwrap();
        let url = site.split_whitespace().find(|word| word.starts_with("fcgi://127")).unwrap().to_owned();
        let define = format!("AuthnzFcgiDefineProvider authz members {url}\n");
        let checks =
            "    AuthType Basic\n    AuthName members\n    AuthBasicProvider nibiru\n    Require members\n";
        let basic = "LoadModule auth_basic_module /usr/lib/apache2/modules/mod_auth_basic.so\n";
        format!("{basic}{define}{}{checks}{}", &site[..start], &site[end..])
    };
    let front_end = FrontEnd::with_edits(Kind::Apache, roles(), questions);
    let reply = front_end.curl(["--user", "bob:guess"], "/members/open.html").expect(200).text();
    // The variables of the second response, to AUTHORIZER, stand.
    assert!(reply.contains("TEST_SEEN=AUTHORIZER,bob\n") && reply.contains("REMOTE_USER=bob\n"), "{reply}");
    // A denial shows Apache's own page and challenge.
    let reply = front_end.curl(["--user", "bob:guess"], "/members/login.html").expect(401);
    assert!(!reply.text().contains("Who are you?"), "{reply:?}");
    assert_eq!(reply.headers("WWW-Authenticate"), ["Basic realm=\"members\""]);
    front_end.curl(["--user", "bob:guess"], "/members/error.html").expect(500);
}

/// nginx does not speak the role: its auth_request comes to a responder.
#[test]
fn nginx_auth_request_is_answered_by_the_example_authorizer() {
    let authorizer = Server::builder()
        .application(repository("examples/authorizer"), "app")
        .environment("AUTHORIZER_TOKENS", "alice:a1b2")
        .start();
    let server = roles().start();
    let asked = std::fs::read_to_string(repository("deploy/nginx/authorizer.conf")).unwrap();
    let asked = asked.replace("/run/nibiru/auth.sock", &authorizer.socket().display().to_string());
    let proxy = Proxy::with_edits(ProxyKind::Nginx, &server, |site| {
        format!("{}{asked}}}\n", site.trim_end().strip_suffix('}').expect("the server block is last"))
    });
    let token = ["--header", "Cookie: token=a1b2", "--data", "a body"];
    let reply = proxy.curl(token, "/members/page?a=1").expect(200);
    assert!(reply.text().contains("REMOTE_USER=alice\n"), "{}", reply.text());
    assert!(reply.text().contains("CONTENT_LENGTH=6\n"), "{}", reply.text());
    assert_eq!(reply.header("Variable-REMOTE_USER"), None);
    let denied = proxy.curl(["--data", "a body"], "/members/page").expect(401);
    assert_eq!(denied.header("WWW-Authenticate"), Some("Bearer realm=\"members\""));
    // The authorizer's location is internal.
    proxy.curl(token, "/-/authorize").expect(404);
    authorizer.signal(Signal::KILL);
    proxy.curl(token, "/members/page").expect(500);
}
