//! The rows of the table of responses: edit them here, then copy what the test prints into the page.

use super::{Does, Row, Section};

const fn row(what: &'static str, does: Does, seen: [&'static str; 4], log: &'static str) -> Row {
    Row { what, method: "GET", does, fields: &[], broken: false, seen, log }
}

const fn runs(what: &'static str, lua: &'static str, seen: [&'static str; 4], log: &'static str) -> Row {
    row(what, Does::Runs(lua), seen, log)
}

/// A header, given in every way that there is.
const fn header(
    what: &'static str,
    name: &'static str,
    value: &'static str,
    seen: [&'static str; 4],
    log: &'static str,
) -> Row {
    row(what, Does::Says("200", name, value), seen, log)
}

/// A status, given in every way that there is.
const fn status(what: &'static str, status: &'static str, seen: [&'static str; 4], log: &'static str) -> Row {
    row(what, Does::Says(status, "'X-A'", "'1'"), seen, log)
}

const fn sends(what: &'static str, head: &'static str, seen: [&'static str; 4], log: &'static str) -> Row {
    row(what, Does::Sends(head, "'hello'"), seen, log)
}

const fn all(seen: &'static str) -> [&'static str; 4] {
    [seen; 4]
}

impl Row {
    const fn head(mut self) -> Self {
        self.method = "HEAD";
        self
    }

    const fn telling(mut self, fields: &'static [&'static str]) -> Self {
        self.fields = fields;
        self
    }

    /// The application fails after its head.
    const fn broken(mut self) -> Self {
        self.broken = true;
        self
    }
}

const LENGTH: &[&str] = &["Content-Length"];

pub(super) const SECTIONS: &[Section] = &[
    Section { title: "Length", rows: LENGTHS },
    Section { title: "Responses without a body", rows: BODILESS },
    Section { title: "Given twice, or not the application's", rows: FIELDS },
    Section { title: "Splitting a response", rows: SPLITTING },
    Section { title: "Failing", rows: FAILING },
    Section { title: "A worker that goes round nibiru's Lua", rows: HOSTILE },
];

const LENGTHS: &[Row] = &[
    runs("a string", "return 200, {}, 'hello'", all("200 `hello`, `Content-Length: 5`"), "").telling(LENGTH),
    runs("an array", "return 200, {}, { 'hel', 'lo' }", all("200 `hello`, `Content-Length: 5`"), "")
        .telling(LENGTH),
    runs("a function, no length", "return 200, {}, giving('hel', 'lo')", all("200 `hello`"), "")
        .telling(LENGTH),
    runs(
        "a function, the right length",
        "return 200, { ['Content-Length'] = 5 }, giving('hel', 'lo')",
        all("200 `hello`, `Content-Length: 5`"),
        "",
    )
    .telling(LENGTH),
    runs(
        "an array or function with empty strings only",
        "return 200, {}, giving('', '')",
        all("200, `Content-Length: 0`"),
        "",
    )
    .telling(LENGTH),
    runs(
        "`write` twice, then a string",
        "local write = start_response(200, {}) write('he') write('l') return 'lo'",
        all("200 `hello`"),
        "",
    )
    .telling(LENGTH),
    runs(
        "a length above that of the string",
        "return 200, { ['Content-Length'] = 6 }, 'hello'",
        all("500"),
        "the body has 5 bytes, but its Content-Length is 6",
    ),
    runs(
        "a length below that of the string",
        "return 200, { ['Content-Length'] = 4 }, 'hello'",
        all("500"),
        "the body has 5 bytes, but its Content-Length is 4",
    ),
    runs(
        "a function that ends before its length",
        "return 200, { ['Content-Length'] = 9 }, giving('hello')",
        all("breaks"),
        "the body ended after 5 bytes, but its Content-Length is 9",
    )
    .broken(),
    runs(
        "a function whose first chunk exceeds its length",
        "return 200, { ['Content-Length'] = 4 }, giving('hello')",
        all("500"),
        "the body is longer than its Content-Length of 4",
    ),
    runs(
        "a function whose second chunk exceeds its length",
        "return 200, { ['Content-Length'] = 7 }, giving('hello', 'hello')",
        all("breaks"),
        "the body is longer than its Content-Length of 7",
    )
    .broken(),
    runs(
        "`write` of all that was promised, then of more",
        "local write = start_response(200, { { 'Content-Length', 5 } }) write('hello') write('!') return ''",
        all("200 `hello`"),
        "the body is longer than its Content-Length of 5",
    ),
    runs(
        "the same, and the application catches the error",
        "local write = start_response(200, { { 'Content-Length', 5 } }) write('hello') pcall(write, '!') return ''",
        all("200 `hello`"),
        "",
    ),
    header(
        "`Content-Length: +5`",
        "'Content-Length'",
        "'+5'",
        all("500"),
        "header Content-Length must be a number of bytes",
    ),
    header(
        "`Content-Length: 5, 5`",
        "'Content-Length'",
        "'5, 5'",
        all("500"),
        "header Content-Length must be a number of bytes",
    ),
    header(
        "`Content-Length: -1`",
        "'Content-Length'",
        "-1",
        all("500"),
        "header Content-Length must be a number of bytes",
    ),
    header(
        "an empty `Content-Length`",
        "'Content-Length'",
        "''",
        all("500"),
        "header Content-Length must be a number of bytes",
    ),
    header(
        "`Content-Length: 005`",
        "'Content-Length'",
        "'005'",
        [
            "200 `hello`, `Content-Length: 5`",
            "200 `hello`, `Content-Length: 5`",
            "200 `hello`, `Content-Length: 005`",
            "200 `hello`, `Content-Length: 005`",
        ],
        "",
    )
    .telling(LENGTH),
];

const BODILESS: &[Row] = &[
    runs("HEAD, a string", "return 200, {}, 'hello'", all("200, `Content-Length: 5`"), "")
        .head()
        .telling(LENGTH),
    runs(
        "HEAD, an empty string and a length",
        "return 200, { ['Content-Length'] = 5 }, ''",
        all("200, `Content-Length: 5`"),
        "",
    )
    .head()
    .telling(LENGTH),
    runs("HEAD, a function, no length", "return 200, {}, giving('hel', 'lo')", all("200"), "")
        .head()
        .telling(LENGTH),
    runs(
        "HEAD, a function and a length",
        "return 200, { ['Content-Length'] = 5 }, giving('hel', 'lo')",
        all("200, `Content-Length: 5`"),
        "",
    )
    .head()
    .telling(LENGTH),
    runs(
        "HEAD, `write`",
        "start_response(200, { { 'Content-Length', 5 } })('hello') return ''",
        all("200, `Content-Length: 5`"),
        "",
    )
    .head()
    .telling(LENGTH),
    runs(
        "HEAD, a string of another length",
        "return 200, { ['Content-Length'] = 6 }, 'hello'",
        all("500, `Content-Length: 22`"),
        "the body has 5 bytes, but its Content-Length is 6",
    )
    .head()
    .telling(LENGTH),
    runs(
        "HEAD, an error",
        "error('deliberate failure')",
        all("500, `Content-Length: 22`"),
        "deliberate failure",
    )
    .head()
    .telling(LENGTH),
    runs(
        "HEAD, a worker that is killed",
        "return raw(start_response, 'no head\\n\\n', '')",
        all("502, `Content-Length: 57`"),
        "killing it",
    )
    .head()
    .telling(LENGTH),
    runs(
        "204 and a body",
        "return 204, {}, 'hello'",
        all("204"),
        "a response with status 204 has no body; the one given is dropped",
    )
    .telling(LENGTH),
    runs("204 and a function", "return 204, {}, giving('hello')", all("204"), "").telling(LENGTH),
    runs("204, a length and a body", "return 204, { ['Content-Length'] = 5 }, 'hello'", all("204"), "")
        .telling(LENGTH),
    runs("205 and a body", "return 205, {}, 'hello'", all("205, `Content-Length: 0`"), "").telling(LENGTH),
    runs(
        "304, validators and a body",
        "return 304, { ETag = '\"v1\"' }, 'hello'",
        all("304, `ETag: \"v1\"`"),
        "",
    )
    .telling(&["Content-Length", "ETag", "Content-Type"]),
    runs(
        "304 and a length",
        "return 304, { ['Content-Length'] = 5 }, ''",
        ["304, `Content-Length: 5`", "304, `Content-Length: 5`", "304", "304"],
        "",
    )
    .telling(LENGTH),
];

const FIELDS: &[Row] = &[
    runs(
        "`Transfer-Encoding: chunked`, a string",
        "return 200, { ['Transfer-Encoding'] = 'chunked' }, 'hello'",
        all("200 `hello`, `Content-Length: 5`"),
        "header Transfer-Encoding: chunked is left out",
    )
    .telling(LENGTH),
    runs(
        "`Transfer-Encoding: chunked`, a function",
        "return 200, { ['Transfer-Encoding'] = 'chunked' }, giving('hel', 'lo')",
        all("200 `hello`"),
        "",
    )
    .telling(LENGTH),
    runs(
        "`Transfer-Encoding: chunked` and a length",
        "return 200, { ['Transfer-Encoding'] = 'chunked', ['Content-Length'] = 5 }, giving('hel', 'lo')",
        all("200 `hello`, `Content-Length: 5`"),
        "",
    )
    .telling(LENGTH),
    header(
        "`Transfer-Encoding: gzip`",
        "'Transfer-Encoding'",
        "'gzip'",
        all("500"),
        "header Transfer-Encoding is hop-by-hop",
    ),
    header(
        "`Connection: close`",
        "'Connection'",
        "'close'",
        all("200 `hello`"),
        "header Connection: close is left out",
    ),
    header(
        "`Keep-Alive: timeout=5`",
        "'Keep-Alive'",
        "'timeout=5'",
        all("200 `hello`"),
        "header Keep-Alive: timeout=5 is left out",
    )
    .telling(&["Keep-Alive"]),
    header(
        "`Connection: upgrade`",
        "'Connection'",
        "'upgrade'",
        all("500"),
        "header Connection is hop-by-hop",
    ),
    header("`Upgrade: websocket`", "'Upgrade'", "'websocket'", all("500"), "header Upgrade is hop-by-hop"),
    header("`Trailer: X-A`", "'Trailer'", "'X-A'", all("500"), "header Trailer is hop-by-hop"),
    header("`TE: trailers`", "'TE'", "'trailers'", all("500"), "header TE is hop-by-hop"),
    header("`Status: 404`", "'Status'", "'404'", all("500"), "header Status is not allowed"),
    runs(
        "`Content-Length` twice",
        "return 200, { { 'Content-Length', 5 }, { 'Content-Length', 5 } }, 'hello'",
        all("500"),
        "header Content-Length is given twice",
    ),
    runs(
        "`Content-Type` twice",
        "return 200, { { 'Content-Type', 'text/html' }, { 'content-type', 'text/plain' } }, 'hello'",
        all("500"),
        "header content-type is given twice",
    ),
    runs(
        "`Location` twice",
        "return 302, { { 'Location', '/a' }, { 'Location', '/b' } }, 'hello'",
        all("500"),
        "header Location is given twice",
    ),
    runs(
        "`Date` twice",
        "return 200, { { 'Date', 'x' }, { 'Date', 'x' } }, 'hello'",
        all("500"),
        "header Date is given twice",
    ),
    runs(
        "`Server` twice",
        "return 200, { { 'Server', 'x' }, { 'Server', 'y' } }, 'hello'",
        all("500"),
        "header Server is given twice",
    ),
    runs(
        "`ETag` twice",
        "return 200, { { 'ETag', '\"a\"' }, { 'ETag', '\"b\"' } }, 'hello'",
        all("500"),
        "header ETag is given twice",
    ),
    runs(
        "`Server` once",
        "return 200, { { 'Server', 'mine' } }, 'hello'",
        [
            "200 `hello`, `Server: mine`",
            "200 `hello`, `Server: mine`",
            "200 `hello`, `Server: Caddy`, `Server: mine`",
            "200 `hello`, `Server: mine`",
        ],
        "",
    )
    .telling(&["Server"]),
    runs(
        "`Date` once",
        "return 200, { { 'Date', 'Tue, 24 Nov 2026 12:00:00 GMT' } }, 'hello'",
        all("200 `hello`, `Date: Tue, 24 Nov 2026 12:00:00 GMT`"),
        "",
    )
    .telling(&["Date"]),
    runs(
        "`Set-Cookie` three times",
        "return 200, { ['Set-Cookie'] = { 'a=1', 'b=2', 'a=1' } }, 'hello'",
        all("200 `hello`, `Set-Cookie: a=1`, `Set-Cookie: b=2`, `Set-Cookie: a=1`"),
        "",
    )
    .telling(&["Set-Cookie"]),
    runs(
        "`X-A` twice",
        "return 200, { { 'X-A', '1' }, { 'X-A', '2' } }, 'hello'",
        all("200 `hello`, `X-A: 1`, `X-A: 2`"),
        "",
    )
    .telling(&["X-A"]),
    runs(
        "200 and `Location`",
        "return 200, { Location = '/elsewhere' }, 'hello'",
        all("200 `hello`, `Location: /elsewhere`"),
        "",
    )
    .telling(&["Location"]),
];

const SPLITTING: &[Row] = &[
    header(
        "CR LF in a value, and a header behind",
        "'X-A'",
        "'a\\r\\nSet-Cookie: stolen=1'",
        all("500"),
        "header X-A contains CR at byte 2",
    )
    .telling(&["Set-Cookie"]),
    header(
        "CR LF CR LF in a value, and a response behind",
        "'X-B'",
        "'a\\r\\n\\r\\nHTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n'",
        all("500"),
        "header X-B contains CR at byte 2",
    ),
    header(
        "LF in a value",
        "'X-C'",
        "'a\\nSet-Cookie: stolen=1'",
        all("500"),
        "header X-C contains LF at byte 2",
    )
    .telling(&["Set-Cookie"]),
    header(
        "CR in a value",
        "'X-D'",
        "'a\\rSet-Cookie: stolen=1'",
        all("500"),
        "header X-D contains CR at byte 2",
    )
    .telling(&["Set-Cookie"]),
    header(
        "a line that continues (CR LF, blank)",
        "'X-E'",
        "'a\\r\\n b'",
        all("500"),
        "header X-E contains CR at byte 2",
    ),
    header("NUL in a value", "'X-F'", "'a\\0b'", all("500"), "header X-F contains NUL at byte 2"),
    header(
        "VT in a value",
        "'X-G'",
        "'a\\11b'",
        all("500"),
        "header X-G contains control character 0x0B at byte 2",
    ),
    header(
        "FF in a value",
        "'X-H'",
        "'a\\12b'",
        all("500"),
        "header X-H contains control character 0x0C at byte 2",
    ),
    header(
        "ESC in a value",
        "'X-I'",
        "'a\\27b'",
        all("500"),
        "header X-I contains control character 0x1B at byte 2",
    ),
    header(
        "DEL in a value",
        "'X-J'",
        "'a\\127b'",
        all("500"),
        "header X-J contains control character 0x7F at byte 2",
    ),
    header("a tab in a value", "'X-K'", "'a\\tb'", all("200 `hello`, `X-K: a\\tb`"), "").telling(&["X-K"]),
    header("bytes from 0x80 in a value", "'X-L'", "'\\128\\255'", all("200 `hello`, `X-L: \\x80\\xff`"), "")
        .telling(&["X-L"]),
    header("UTF-8 in a value", "'X-M'", "'\\195\\164'", all("200 `hello`, `X-M: \\xc3\\xa4`"), "")
        .telling(&["X-M"]),
    header("blanks around a value", "'X-N'", "'  a  '", all("200 `hello`, `X-N: a`"), "").telling(&["X-N"]),
    header("an empty value", "'X-O'", "''", all("200 `hello`, `X-O: `"), "").telling(&["X-O"]),
    header("a name with LF", "'X-P: a\\nSet-Cookie'", "'stolen=1'", all("500"), "is not a valid name")
        .telling(&["Set-Cookie"]),
    header("a name with a colon", "'X-Q:'", "'1'", all("500"), "header name \"X-Q:\" is not a valid name"),
    header("a name that is a colon", "':'", "'1'", all("500"), "header name \":\" is not a valid name"),
    header("an empty name", "''", "'1'", all("500"), "header name \"\" is not a valid name"),
    header("a name with a space", "'X R'", "'1'", all("500"), "header name \"X R\" is not a valid name"),
    header("a name with NUL", "'X-S\\0'", "'1'", all("500"), "is not a valid name"),
    header("a name with UTF-8", "'X-\\195\\164'", "'1'", all("500"), "is not a valid name"),
    header("a name with `_`", "'X_T'", "'1'", all("200 `hello`, `X_T: 1`"), "").telling(&["X_T"]),
    header(
        "a name with marks that a token may have",
        "\"!#$%&'*+-.^_~\"",
        "'1'",
        all("200 `hello`, `!#$%&'*+-.^_~: 1`"),
        "",
    )
    .telling(&["!#$%&'*+-.^_~"]),
    header(
        "a value of 15,000 bytes",
        "'X-U'",
        "('x'):rep(15000)",
        all("200 `hello`, X-U of 15000 bytes"),
        "",
    )
    .telling(&["X-U"]),
    header(
        "a value of 20,000 bytes",
        "'X-V'",
        "('x'):rep(20000)",
        [
            "502, nginx's page",
            "502, nginx's page",
            "200 `hello`, X-V of 20000 bytes",
            "200 `hello`, X-V of 20000 bytes",
        ],
        "",
    )
    .telling(&["X-V"]),
    header("a value of 65,536 bytes", "'X-W'", "('x'):rep(65536)", all("500"), "the response head has"),
    status(
        "a status with CR LF, and a header behind",
        "'200 OK\\r\\nSet-Cookie: stolen=1'",
        all("500"),
        "contains CR at byte 3",
    )
    .telling(&["Set-Cookie"]),
    status("status 99", "99", all("500"), "status must be like"),
    status("status 101", "101", all("500"), "got 101"),
    status("status 103", "103", all("500"), "got 103"),
    status("status 600", "600", all("500"), "got 600"),
    status("status 200.5", "200.5", all("500"), "got 200.5"),
    status("status `200OK`", "'200OK'", all("500"), "got \"200OK\""),
    status("status `200`", "'200'", all("200 `hello`"), ""),
    status("status 200.0", "200.0", all("200 `hello`"), ""),
    status("status 599", "599", all("599 `hello`"), ""),
    status("a reason in UTF-8", "'200 Sch\\195\\182n'", all("200 `hello`"), ""),
    status("a reason with a byte 0xFF", "'200 \\255'", all("200 `hello`"), ""),
];

const FAILING: &[Row] = &[
    runs("an error", "error('deliberate failure')", all("500"), "deliberate failure"),
    runs(
        "an error after `start_response`",
        "start_response(200, {}) error('deliberate failure')",
        all("500"),
        "deliberate failure",
    ),
    runs(
        "an error that the application catches",
        "pcall(error, 'no') return 200, {}, 'hello'",
        all("200 `hello`"),
        "",
    ),
    runs(
        "no `start_response`",
        "return 'hello'",
        all("500"),
        "start_response was not called before the body",
    ),
    runs(
        "`start_response` twice",
        "start_response(200, {}) start_response(200, {}) return 'hello'",
        all("500"),
        "start_response was already called",
    ),
    runs(
        "`start_response` again with `exc_info`, no byte sent",
        "start_response(200, {}) start_response(503, {}, 'no') return 'hello'",
        all("503 `hello`"),
        "",
    ),
    runs(
        "`start_response` again with `exc_info` after `write`",
        "start_response(200, {})('hello') start_response(500, {}, 'too late for that') return ''",
        ["breaks", "breaks", "**200 `hello`, looks complete**", "breaks"],
        "too late for that",
    )
    .broken(),
    runs(
        "an iterator that fails at once",
        "return 200, {}, failing_after()",
        all("500"),
        "deliberate failure",
    ),
    runs(
        "an iterator that fails after a chunk, no length",
        "return 200, {}, failing_after('hello')",
        ["breaks", "breaks", "**200 `hello`, looks complete**", "breaks"],
        "deliberate failure",
    )
    .broken(),
    runs(
        "the same with a length",
        "return 200, { ['Content-Length'] = 9 }, failing_after('hello')",
        all("breaks"),
        "deliberate failure",
    )
    .broken(),
    runs(
        "an iterator that fails after its last promised byte",
        "return 200, { ['Content-Length'] = 5 }, failing_after('hello')",
        all("200 `hello`"),
        "deliberate failure",
    ),
    runs(
        "`write`, then an error, no length",
        "start_response(200, {})('hello') error('deliberate failure')",
        ["breaks", "breaks", "**200 `hello`, looks complete**", "breaks"],
        "deliberate failure",
    )
    .broken(),
    runs(
        "`write`, then no body (nil)",
        "start_response(200, {})('hello')",
        ["breaks", "breaks", "**200 `hello`, looks complete**", "breaks"],
        "returned no body (nil)",
    )
    .broken(),
    runs(
        "an iterator that gives a number",
        "return 200, {}, giving(5)",
        all("500"),
        "must return strings, got number",
    ),
    runs(
        "an iterator that gives a string, then a table",
        "return 200, {}, giving('hello', {})",
        ["breaks", "breaks", "**200 `hello`, looks complete**", "breaks"],
        "must return strings, got table",
    )
    .broken(),
    runs("an array with a number", "return 200, {}, { 'hello', 5 }", all("500"), "body[2] is a number"),
    runs(
        "a body whose `close` fails",
        "return 200, {}, { 'hello', close = function() error('in close') end }",
        all("200 `hello`"),
        "error in close",
    ),
    runs(
        "an iterator whose `close` fails",
        "return 200, {}, setmetatable({ close = function() error('in close') end }, { __call = giving('hello') })",
        all("200 `hello`"),
        "error in close",
    ),
    runs("`os.exit`", "os.exit(0)", all("500"), "os.exit(0)"),
    runs(
        "`os.exit` after a chunk, no length",
        "start_response(200, {})('hello') os.exit(0)",
        ["breaks", "breaks", "**200 `hello`, looks complete**", "breaks"],
        "os.exit(0)",
    )
    .broken(),
    runs(
        "HEAD, `write`, then an error",
        "start_response(200, { { 'Content-Length', 5 } })('hello') error('deliberate failure')",
        all("200, `Content-Length: 5`"),
        "deliberate failure",
    )
    .head()
    .telling(LENGTH),
];

const HOSTILE: &[Row] = &[
    sends("a head as it should be", "'Status: 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\n'", all("200 `hello`, `Content-Length: 5`"), "").telling(LENGTH),
    sends("lines that end in LF", "'Status: 200 OK\\nContent-Length: 5\\n\\n'", all("200 `hello`, `Content-Length: 5`"), "").telling(LENGTH),
    sends("CR within a value", "'Status: 200 OK\\r\\nX-A: a\\rSet-Cookie: stolen=1\\r\\n\\r\\n'", all("502"), "worker sent a response head with a control character").telling(&["Set-Cookie"]),
    sends("NUL within a value", "'Status: 200 OK\\r\\nX-A: a\\0b\\r\\n\\r\\n'", all("502"), "worker sent a response head with a control character"),
    sends("VT within a value", "'Status: 200 OK\\r\\nX-A: a\\11b\\r\\n\\r\\n'", all("502"), "worker sent a response head with a control character"),
    sends("a line that continues", "'Status: 200 OK\\r\\nX-A: a\\r\\n b\\r\\n\\r\\n'", all("502"), "worker sent a response head with a line that is no field"),
    sends("a line without a colon", "'Status: 200 OK\\r\\nHTTP/1.1 200 OK\\r\\n\\r\\n'", all("502"), "worker sent a response head with a line that is no field"),
    sends("a space before the colon", "'Status: 200 OK\\r\\nContent-Length : 5\\r\\n\\r\\n'", all("502"), "worker sent a response head with a line that is no field"),
    sends("an empty name", "'Status: 200 OK\\r\\n: 5\\r\\n\\r\\n'", all("502"), "worker sent a response head with a line that is no field"),
    sends("`Status: 101`", "'Status: 101 Switching Protocols\\r\\n\\r\\n'", all("502"), "worker sent a response head with a bad or second Status"),
    sends("`Status: 100`", "'Status: 100 Continue\\r\\n\\r\\n'", all("502"), "worker sent a response head with a bad or second Status"),
    sends("`Status: 600`", "'Status: 600 Beyond\\r\\n\\r\\n'", all("502"), "worker sent a response head with a bad or second Status"),
    sends("`Status` twice", "'Status: 200 OK\\r\\nStatus: 404 Not Found\\r\\n\\r\\n'", all("502"), "worker sent a response head with a bad or second Status"),
    sends("`Content-Length` twice", "'Status: 200 OK\\r\\nContent-Length: 5\\r\\nContent-Length: 5\\r\\n\\r\\n'", all("502"), "worker sent a response head with a bad, second or forbidden Content-Length"),
    sends("`Content-Length: +5`", "'Status: 200 OK\\r\\nContent-Length: +5\\r\\n\\r\\n'", all("502"), "worker sent a response head with a bad, second or forbidden Content-Length"),
    sends("204 and `Content-Length: 5`", "'Status: 204 No Content\\r\\nContent-Length: 5\\r\\n\\r\\n'", all("502"), "worker sent a response head with a bad, second or forbidden Content-Length"),
    sends("`Content-Type` twice", "'Status: 200 OK\\r\\nContent-Type: text/html\\r\\nContent-Type: text/plain\\r\\n\\r\\n'", all("502"), "worker sent a response head with two Content-Types or Locations"),
    sends("`Location` twice", "'Status: 302 Found\\r\\nLocation: /a\\r\\nLocation: /b\\r\\n\\r\\n'", all("502"), "worker sent a response head with two Content-Types or Locations"),
    sends("`Transfer-Encoding: chunked`", "'Status: 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n'", all("502"), "worker sent a response head with Transfer-Encoding"),
    sends("`Transfer-Encoding: chunked` and `Content-Length`", "'Status: 200 OK\\r\\nTransfer-Encoding: chunked\\r\\nContent-Length: 5\\r\\n\\r\\n'", all("502"), "worker sent a response head with Transfer-Encoding"),
    sends("a head without an end", "'Status: 200 OK\\r\\n'", all("502"), "worker sent a malformed response head"),
    sends("bytes behind the head", "'Status: 200 OK\\r\\n\\r\\nHTTP/1.1 200 OK\\r\\n\\r\\n'", all("502"), "worker sent a malformed response head"),
    runs("a second head after a body without length", "raw(start_response, 'Status: 200 OK\\r\\n\\r\\n', 'hello') return raw(start_response, 'Status: 200 OK\\r\\n\\r\\n', 'hello')", ["breaks", "breaks", "**200 `hello`, looks complete**", "breaks"], "worker sent a second response head").broken(),
    runs("a body without a head", "return raw(start_response, nil, 'hello')", all("502"), "worker sent a response body without a head"),
    row("more body than `Content-Length`", Does::Sends("'Status: 200 OK\\r\\nContent-Length: 4\\r\\n\\r\\n'", "'hello'"), all("breaks"), "worker sent a response body longer than its Content-Length").broken(),
    row("less body than `Content-Length`", Does::Sends("'Status: 200 OK\\r\\nContent-Length: 6\\r\\n\\r\\n'", "'hello'"), all("breaks"), "worker sent a response body shorter than its Content-Length").broken(),
    row("a body with 204", Does::Sends("'Status: 204 No Content\\r\\n\\r\\n'", "'hello'"), all("204"), "worker sent a response body longer than its Content-Length"),
    row("a body with 304", Does::Sends("'Status: 304 Not Modified\\r\\n\\r\\n'", "'hello'"), all("304"), "worker sent a response body longer than its Content-Length"),
    row("a body for HEAD", Does::Sends("'Status: 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\n'", "'hello'"), all("200"), "worker sent a response body longer than its Content-Length").head(),
];
