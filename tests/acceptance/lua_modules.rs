//! Modules that applications bring or the distribution has.

use crate::support::Server;
use crate::wire::{Connection, PARAMS, RESPONDER, STDIN, begin, get_params, pair, stream};

#[test]
fn cjson_of_the_distribution_loads_and_works() {
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
fn luasql_sqlite3_of_the_distribution_loads_and_works() {
    let server = Server::start();
    let response = Connection::open(&server.socket()).get("/sqlite");
    assert_eq!((response.status(), response.body()), (200, &b"2 Ninhursag\n"[..]), "{}", server.log());
}

#[test]
fn a_pure_lua_module_from_lua_modules_loads() {
    let server = Server::start();
    let response = Connection::open(&server.socket()).get("/greeting");
    assert_eq!(
        (response.status(), response.body()),
        (200, "Silim, Nibiru!\n".as_bytes()),
        "{}",
        server.log()
    );
}
