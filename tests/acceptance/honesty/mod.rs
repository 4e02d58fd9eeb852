//! The response that a client gets for each honest or hostile response of an application, through each proxy. These are
//! the rows of the tables in `docs/reference/responses.md`.
//!
//! A row has the application's code and the expected outcome for each client. Outcomes are written as in the
//! documentation, so the page and the tests cannot differ.

mod requests;
mod rows;

use std::fmt::Write as _;
use std::fs;

use crate::support::http::{Http, HttpResponse};
use crate::support::{App, Kind, Proxy, Server, repository, wait_causing};

use rows::SECTIONS;

/// A table of the page.
struct Section {
    title: &'static str,
    rows: &'static [Row],
}

/// A row of a table.
struct Row {
    /// The description of the application's response.
    what: &'static str,
    method: &'static str,
    does: Does,
    /// The header fields that the outcome includes.
    fields: &'static [&'static str],
    /// Whether the application fails after its head, so that the response must not look complete.
    broken: bool,
    /// The outcome for a client of nginx, nginx without kept connections, Caddy 2.6.2 and Caddy 2.11.7.
    seen: [&'static str; 4],
    /// Part of a line of nibiru's log; empty where no line is required.
    log: &'static str,
}

/// The application's code, in Lua.
enum Does {
    /// The body of `function(environ, start_response)`.
    Runs(&'static str),
    /// A status, a header name and a header value (expressions), with the body "hello": by `start_response` with a
    /// list, with a map and `write`, and in the short form. All forms must have the same outcome.
    Says(&'static str, &'static str, &'static str),
    /// A head and a body (expressions) that are sent unchanged, without the checks of nibiru's Lua code.
    Sends(&'static str, &'static str),
}

/// Helpers for the applications of the rows: `giving` makes an iterator. `raw` finds the function that sends messages
/// in the upvalues of `start_response`, as a hostile application could.
const PROLOGUE: &str = r#"
local function giving(...)
  local values, position = { ... }, 0
  return function()
    position = position + 1
    return values[position]
  end
end

local function failing_after(...)
  local next_value = giving(...)
  return function()
    return next_value() or error("deliberate failure")
  end
end

local function upvalue(fn, wanted)
  local position = 1
  while true do
    local name, value = debug.getupvalue(fn, position)
    if name == wanted or name == nil then
      return assert(value, wanted)
    end
    position = position + 1
  end
end

local function raw(start_response, head, body)
  local request = upvalue(start_response, "request")
  local transmit = upvalue(upvalue(upvalue(start_response, "write"), "send_chunk"), "transmit")
  upvalue(transmit, "send")(head, body ~= "" and body or nil, true)
  request.head, request.head_sent = { code = 200 }, true
  return ""
end

local rows = {}
"#;

const EPILOGUE: &str = r#"
return function(environ, start_response)
  local row = rows[environ.PATH_INFO:match("^/row/(.*)")]
  if row then
    return row(environ, start_response)
  end
  return 200, {}, "Hello, World!\n"
end
"#;

impl Does {
    /// The code of each form of the application.
    fn forms(&self) -> Vec<String> {
        match self {
            Self::Runs(lua) => vec![(*lua).to_owned()],
            Self::Says(status, name, value) => vec![
                format!("start_response({status}, {{ {{ {name}, {value} }} }})\nreturn {{ 'hello' }}"),
                format!("start_response({status}, {{ [{name}] = {value} }})('hello')\nreturn ''"),
                format!("return {status}, {{ {{ {name}, {value} }} }}, giving('hel', 'lo')"),
            ],
            Self::Sends(head, body) => vec![format!("return raw(start_response, {head}, {body})")],
        }
    }
}

/// Every row with the path that it is asked for at, one for each form.
fn paths() -> impl Iterator<Item = (&'static Row, Vec<String>)> {
    let rows = SECTIONS.iter().flat_map(|section| section.rows);
    rows.enumerate().map(|(number, row)| {
        let forms = row.does.forms().len();
        (row, (0..forms).map(|form| format!("/row/{number}/{form}")).collect())
    })
}

fn application() -> String {
    let mut text = PROLOGUE.to_owned();
    for (row, paths) in paths() {
        for (path, lua) in paths.iter().zip(row.does.forms()) {
            let key = path.trim_start_matches("/row/");
            let _ = writeln!(text, "rows['{key}'] = function(environ, start_response)\n{lua}\nend");
        }
    }
    text + EPILOGUE
}

/// The proxies in the order of [`Row::seen`].
fn proxies(server: &Server) -> [(&'static str, Proxy); 4] {
    let params = fs::read_to_string(repository("deploy/nginx/nibiru_params")).unwrap();
    let plain = params.replace("fastcgi_keep_conn on;", "");
    assert_ne!(params, plain);
    [
        ("nginx", Proxy::start(Kind::Nginx, server)),
        (
            "nginx without fastcgi_keep_conn",
            Proxy::with_edits(Kind::Nginx, server, |site| site.replace("include nibiru_params;", &plain)),
        ),
        ("Caddy 2.6.2", Proxy::start(Kind::OldCaddy, server)),
        ("Caddy 2.11.7", Proxy::start(Kind::NewCaddy, server)),
    ]
}

#[test]
fn every_response_has_the_outcome_of_its_row_through_each_proxy() {
    let app = App::new(&application());
    // One worker, which serves a request between the rows: workers that are killed for a row must not count as failing.
    let server = Server::builder().application(app.root(), "app.lua").workers("1").start();
    let proxies = proxies(&server);
    let mut wrong = Vec::new();
    for (row, paths) in paths() {
        let (logged, wrongs) = (server.log().len(), wrong.len());
        for path in &paths {
            for ((name, proxy), expected) in proxies.iter().zip(row.seen) {
                let seen = outcome(proxy, row, path);
                if seen != expected {
                    wrong.push(format!(
                        "{} ({path}) through {name}:\n  expected {expected}\n  got      {seen}",
                        row.what
                    ));
                }
            }
        }
        if wrong.len() == wrongs {
            let says = || server.log()[logged..].contains(row.log).then_some(());
            // The rate limit of the lines about workers that break the rules: five at once, then one a second.
            let again = || drop(outcome(&proxies[0].1, row, &paths[0]));
            wait_causing(&format!("the log of {:?} says {:?}", row.what, row.log), again, says);
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The outcome of the row at `path` for a client, as the page writes it. All further bytes on the connection must be
/// the complete response to a next request.
fn outcome(proxy: &Proxy, row: &Row, path: &str) -> String {
    let next = b"GET /next HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut http = Http::connect(proxy.port());
    http.send(format!("{} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n", row.method).as_bytes());
    let answer = http.response(row.method == "HEAD");
    let mut seen = describe(row, answer.as_ref());
    http.send(next);
    // A response that broke off, or that the proxy refused, was the last on its connection.
    let following = http.response(false).or_else(|| {
        http = Http::connect(proxy.port());
        http.send(next);
        http.response(false)
    });
    let stray = http.rest();
    match following {
        Some(following) if following.whole && following.body == b"Hello, World!\n" && stray.is_empty() => {}
        following => {
            let _ = write!(seen, ", then {following:?} and {}", stray.escape_ascii());
        }
    }
    seen
}

fn describe(row: &Row, answer: Option<&HttpResponse>) -> String {
    let Some(answer) = answer.filter(|answer| answer.whole) else { return "breaks".to_owned() };
    let mut text = answer.status.to_string();
    let own = [&b"Internal Server Error\n"[..], b"502 Bad Gateway: "];
    if answer.body.windows(5).any(|window| window == b"nginx") {
        text.push_str(", nginx's page");
    } else if !answer.body.is_empty() && !own.iter().any(|front| answer.body.starts_with(front)) {
        let _ = write!(text, " `{}`", answer.body.escape_ascii());
    }
    for name in row.fields {
        for value in answer.fields(name) {
            let value = value.escape_ascii().to_string().replace("\\\"", "\"");
            let _ = if value.len() > 60 {
                write!(text, ", {name} of {} bytes", value.len())
            } else {
                write!(text, ", `{name}: {value}`")
            };
        }
    }
    if row.broken { format!("**{text}, looks complete**") } else { text }
}

impl Section {
    /// The table in Markdown.
    fn table(&self) -> String {
        let mut text = format!(
            "### {}\n\n\
             | the application | nginx | nginx, no keep | Caddy 2.6.2 | Caddy 2.11.7 | the log |\n\
             | --- | --- | --- | --- | --- | --- |\n",
            self.title
        );
        for row in self.rows {
            let log = if row.log.is_empty() { String::new() } else { format!("`{}`", row.log) };
            let cells = [&[row.what], &row.seen[..], &[&log]].concat();
            let cells = cells.iter().map(|cell| cell.replace('|', "\\|"));
            let _ = writeln!(text, "| {} |", cells.collect::<Vec<_>>().join(" | "));
        }
        text
    }
}

#[test]
fn the_page_has_the_tables_of_the_tests() {
    let text = fs::read_to_string(repository("docs/reference/responses.md")).unwrap();
    let tables: Vec<String> = SECTIONS.iter().map(Section::table).chain(requests::tables()).collect();
    for table in &tables {
        assert!(text.contains(table), "docs/reference/responses.md should hold\n\n{}", tables.join("\n"));
    }
    let rows = |text: &str| text.lines().filter(|line| line.starts_with('|')).count();
    assert_eq!(rows(&text), rows(&tables.concat()), "the page has a row without a test");
}
