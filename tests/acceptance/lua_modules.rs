//! Lua modules from the application's `lua_modules` and from the distribution.

use crate::support::wire::{Connection, PARAMS, RESPONDER, STDIN, begin, get_params, pair, stream};
use crate::support::{App, Server};

#[test]
fn cjson_of_debian_loads_and_works() {
    let server = Server::start();
    let body = br#"{"name":"Enki","numbers":[1,2.5]}"#;
    let mut params = get_params("/json");
    params.extend(pair(b"CONTENT_LENGTH", body.len().to_string().as_bytes()));
    let mut request = begin(1, RESPONDER, false);
    request.extend(stream(PARAMS, 1, &params));
    request.extend(stream(STDIN, 1, body));
    let mut connection = Connection::open(&server.socket());
    connection.send(&request);
    let response = connection.response(1).expect("a response");
    assert_eq!(response.status(), 200, "{}", server.log());
    let text = String::from_utf8(response.body().to_vec()).unwrap();
    assert!(text.contains(r#""name":"Enki""#) && text.contains(r#""numbers":[1,2.5]"#), "{text}");
}

#[test]
fn luasql_sqlite3_of_debian_loads_and_works() {
    let server = Server::start();
    let response = server.get("/sqlite");
    assert_eq!((response.status(), response.body()), (200, &b"2 Ninhursag\n"[..]), "{}", server.log());
}

#[test]
fn a_pure_lua_module_from_lua_modules_loads() {
    let server = Server::start();
    let response = server.get("/greeting");
    assert_eq!(
        (response.status(), response.body()),
        (200, "Silim, Nibiru!\n".as_bytes()),
        "{}",
        server.log()
    );
}

/// Penlight's strict mode raises an error for the use of an undeclared global anywhere in the Lua state.
#[test]
fn an_application_with_penlights_strict_mode_serves() {
    let app = App::new(
        "require('pl.strict')\n\
         local nibiru = require('nibiru')\n\
         nibiru.on_worker_start(function() nibiru.log.info('started') end)\n\
         return function(environ)\n\
         \x20 if environ.PATH_INFO == '/error' then return undeclared end\n\
         \x20 environ['nibiru.after_response'](function() nibiru.log.info('later') end)\n\
         \x20 return 200, {}, tostring(pcall(load, 'return x')) .. environ['wsgi.input']:read()\n\
         end",
    );
    for preload in ["on", "off"] {
        let server =
            Server::builder().application(app.root(), "app").arguments(["--preload", preload]).start();
        server.logged(&["started"]);
        let mut connection = Connection::open(&server.socket());
        let response = connection.get("/");
        assert_eq!((response.status(), response.body()), (200, &b"true"[..]), "{preload}: {}", server.log());
        server.logged(&["later"]);
        // The strict mode is active.
        assert_eq!(server.get("/error").status(), 500);
        server.logged(&["variable 'undeclared' is not declared"]);
        assert!(!server.log().contains("nibiru/"), "{}", server.log());
    }
}
