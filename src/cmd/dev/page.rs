//! The error page: a [`Failure`] as HTML, JSON or text, by the client's Accept header.
//!
//! The page has no script and loads no asset. All text from outside is escaped here. The request is shown without its secrets,
//! since people put pages into screenshots and bug reports.

use std::fmt::Write as _;

use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};

use super::answer::{self, Answer};
use super::failure::{Excerpt, Failure};
use crate::cgi::path::percent_decode;
use crate::log::escape::{self, html as escape};
use crate::log::redact;

/// The longest header or parameter that is shown whole, in bytes.
const MAX_VALUE: usize = 1024;

/// The request, as the page shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestInfo<'a> {
    /// The response's status: `500`, or `504` for a request that ran for too long.
    pub(super) status: StatusCode,
    pub(super) method: &'a str,
    /// The request target: path and query.
    pub(super) target: &'a str,
    pub(super) headers: &'a HeaderMap,
    /// The request's id, as in the log.
    pub(super) id: &'a str,
}

/// The request without its secrets, not escaped yet.
#[derive(Debug)]
struct RedactedRequest<'a> {
    method: &'a str,
    target: String,
    /// The query's parameters: names and values, decoded.
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    id: &'a str,
}

impl<'a> RedactedRequest<'a> {
    fn new(about: RequestInfo<'a>) -> Self {
        let query = about.target.split_once('?').map_or("", |(_, query)| query);
        let decode = |text: &str| escape::text(&percent_decode(text.replace('+', " "))).into_owned();
        let parameter = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name), decode(value));
            let shown = escape::cut(&redact::parameter(&name, &value), MAX_VALUE);
            (escape::cut(&name, MAX_VALUE), shown)
        };
        let header = |(name, value): (&hyper::header::HeaderName, &HeaderValue)| {
            let value = redact::header(name.as_str(), value.as_bytes());
            (name.to_string(), escape::cut(&escape::text(&value), MAX_VALUE))
        };
        Self {
            method: about.method,
            target: escape::text(&redact::uri(about.target.as_bytes())).into_owned(),
            query: query.split('&').filter(|pair| !pair.is_empty()).map(parameter).collect(),
            headers: about.headers.iter().map(header).collect(),
            id: about.id,
        }
    }
}

/// The page for `failure`, in the format that `accept`, the client's Accept header, prefers.
pub(super) fn render(failure: &Failure, about: RequestInfo<'_>, accept: &str) -> Answer {
    let request = RedactedRequest::new(about);
    let (content_type, page) = match Format::negotiate(accept) {
        Format::Html => ("text/html; charset=utf-8", html(failure, &request)),
        Format::Json => ("application/json", json(failure, about.status, &request)),
        Format::Text => ("text/plain; charset=utf-8", text(failure, &request)),
    };
    let mut answer = answer::whole(about.status, content_type, page);
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Html,
    Json,
    Text,
}

impl Format {
    /// The format with the highest weight in Accept, HTML or JSON, the first of equals. Text where Accept names neither: curl
    /// sends `*/*`, and a person reads its output at a terminal.
    fn negotiate(accept: &str) -> Self {
        let mut best = (0.0, Self::Text);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let format = match &*name {
                "text/html" | "application/xhtml+xml" => Self::Html,
                "application/json" => Self::Json,
                name if name.starts_with("application/") && name.ends_with("+json") => Self::Json,
                _ => continue,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
            if weight > best.0 {
                best = (weight, format);
            }
        }
        best.1
    }
}

fn kind(failure: &Failure) -> &'static str {
    if failure.load { "The application does not load" } else { "The application failed" }
}

fn text(failure: &Failure, request: &RedactedRequest<'_>) -> String {
    let mut page = format!("{}: {}\n", kind(failure), failure.message);
    if !failure.traceback.is_empty() {
        page.push_str("stack traceback:\n");
    }
    for frame in &failure.traceback {
        page.extend(["\t", frame, "\n"]);
    }
    push(&mut page, format_args!("request: {} {} ({})\n", request.method, request.target, request.id));
    for (name, value) in &request.headers {
        push(&mut page, format_args!("\t{name}: {value}\n"));
    }
    escape::text(page.as_bytes()).into_owned()
}

fn json(failure: &Failure, status: StatusCode, request: &RedactedRequest<'_>) -> String {
    // A name that comes more than once has an array of values.
    let pairs = |pairs: &[(String, String)]| {
        let mut object: Map<String, Value> = Map::new();
        for (name, value) in pairs {
            match object.get_mut(name) {
                None => drop(object.insert(name.clone(), value.as_str().into())),
                Some(Value::Array(values)) => values.push(value.as_str().into()),
                Some(first) => *first = json!([first.take(), value]),
            }
        }
        object
    };
    let source = |excerpt: &Excerpt| {
        let lines: Vec<Value> =
            excerpt.lines.iter().map(|(number, text)| json!({ "number": number, "text": text })).collect();
        json!({ "file": excerpt.file.to_string_lossy(), "line": excerpt.line, "lines": lines })
    };
    let page = json!({
        "status": status.as_u16(),
        "error": kind(failure),
        "message": failure.message,
        "traceback": failure.traceback,
        "source": failure.excerpts.iter().map(source).collect::<Vec<_>>(),
        "written": failure.written,
        "request": {
            "method": request.method,
            "target": request.target,
            "id": request.id,
            "query": pairs(&request.query),
            "headers": pairs(&request.headers),
        },
    });
    escape::json(&format!("{page:#}\n")).into_owned()
}

fn html(failure: &Failure, request: &RedactedRequest<'_>) -> String {
    let (headline, kind) = (escape(&failure.headline), kind(failure));
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{headline}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n\
         <p class=\"kind\">{kind} <span>&middot; {} {}</span></p>\n<h1>{headline}</h1>\n",
        include_str!("page.css"),
        escape(request.method),
        escape(&request.target),
    );
    if !failure.excerpts.is_empty() {
        page.push_str("<section class=\"source\">\n");
        failure.excerpts.iter().for_each(|excerpt| push_source(&mut page, excerpt));
        page.push_str("</section>\n");
    }
    // A message of one line, whose place is shown above, would be repeated.
    let told = failure.message == failure.headline
        || (!failure.excerpts.is_empty() && failure.message.lines().count() == 1);
    let message = if told { "" } else { &failure.message };
    for (title, text) in [
        ("Message", message),
        ("Traceback", &failure.traceback.join("\n")),
        ("Written to wsgi.errors", &failure.written),
    ] {
        if !text.is_empty() {
            push(&mut page, format_args!("<h2>{title}</h2>\n<pre class=\"card\">{}</pre>\n", escape(text)));
        }
    }
    push(
        &mut page,
        format_args!(
            "<h2>Request</h2>\n<div class=\"card\"><table>\n\
             <tr><th>Method</th><td>{}</td></tr>\n<tr><th>Address</th><td>{}</td></tr>\n\
             <tr><th>Id in the log</th><td>{}</td></tr>\n</table></div>\n",
            escape(request.method),
            escape(&request.target),
            escape(request.id),
        ),
    );
    push_pairs(&mut page, "Query", &request.query);
    push_pairs(&mut page, "Headers", &request.headers);
    page.push_str(
        "<footer>Only <code>nibiru dev</code> shows this page. Save the file and load the page again.</footer>\n\
         </main>\n</body>\n</html>\n",
    );
    page
}

fn push_pairs(page: &mut String, title: &str, pairs: &[(String, String)]) {
    if pairs.is_empty() {
        return;
    }
    push(page, format_args!("<h2>{title}</h2>\n<div class=\"card\"><table>\n"));
    for (name, value) in pairs {
        push(page, format_args!("<tr><th>{}</th><td>{}</td></tr>\n", escape(name), escape(value)));
    }
    page.push_str("</table></div>\n");
}

fn push_source(page: &mut String, excerpt: &Excerpt) {
    push(
        page,
        format_args!(
            "<div class=\"card\"><div class=\"file\"><code>{}<span>:{}</span></code></div>\n\
             <pre class=\"code\"><div>",
            escape(&excerpt.file.to_string_lossy()),
            excerpt.line
        ),
    );
    for (number, text) in &excerpt.lines {
        let class = if *number == excerpt.line { " class=\"fault\"" } else { "" };
        push(page, format_args!("<span{class}><i>{number}</i>{}</span>", escape(text)));
    }
    page.push_str("</div></pre></div>\n");
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = page.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_the_client_names_first_or_weighs_most() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";
        for (accept, format) in [
            (browser, Format::Html),
            ("", Format::Text),
            ("*/*", Format::Text),
            ("application/json", Format::Json),
            ("application/json, text/plain, */*", Format::Json),
            ("application/problem+json", Format::Json),
            ("text/html, application/json", Format::Html),
            ("application/json, text/html", Format::Json),
            ("text/html;q=0.5, application/json;q=0.9", Format::Json),
            ("text/html;q=0", Format::Text),
        ] {
            assert_eq!(Format::negotiate(accept), format, "{accept}");
        }
    }

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let evil = "<script>\"'&".to_owned();
        let failure = Failure {
            load: false,
            headline: evil.clone(),
            message: format!("x:\n{evil}"),
            traceback: vec![evil.clone()],
            written: evil.clone(),
            excerpts: vec![Excerpt { file: evil.clone().into(), line: 1, lines: vec![(1, evil.clone())] }],
        };
        let target = format!("/?{evil}={evil}");
        let headers = HeaderMap::from_iter([(hyper::header::REFERER, HeaderValue::from_str(&evil).unwrap())]);
        let (status, method, id) = (StatusCode::INTERNAL_SERVER_ERROR, &evil, &evil);
        let page = html(
            &failure,
            &RedactedRequest::new(RequestInfo { status, method, target: &target, headers: &headers, id }),
        );
        assert!(!page.contains("<script"), "{page}");
        // Four of them come from the target: two where it is shown, two as the name and the value of its parameter.
        assert_eq!(page.matches("&lt;script&gt;&quot;&#39;").count(), 17, "{page}");
    }

    #[test]
    fn the_request_is_shown_without_its_secrets() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("cookie", "sid=XYZZY"),
            ("authorization", "Basic XYZZY"),
            ("proxy-authorization", "XYZZY"),
            ("x-api-key", "XYZZY"),
            ("referer", "http://a/?token=XYZZY"),
            ("accept", "text/html"),
            ("x-two", "one"),
            ("x-two", "two"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers.append("x-evil", HeaderValue::from_bytes(b"\xff\xc2\x9b").unwrap());
        let target = "/a?b=c+%C3%A9%1B&token=XYZZY&b=d&next=%2F%3Fcode%3DXYZZY";
        let about = RequestInfo {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            method: "GET",
            target,
            headers: &headers,
            id: "ab",
        };
        let (failure, request) = (Failure::default(), RedactedRequest::new(about));
        let value: Value = serde_json::from_str(&json(&failure, about.status, &request)).unwrap();
        assert_eq!(
            value["request"]["query"],
            json!({ "b": ["c é\\x1B", "d"], "token": "[redacted]", "next": "[redacted]" })
        );
        assert_eq!(
            value["request"]["headers"],
            json!({
                "cookie": "[redacted]",
                "authorization": "[redacted]",
                "proxy-authorization": "[redacted]",
                "x-api-key": "[redacted]",
                "referer": "http://a/?token=[redacted]",
                "accept": "text/html",
                "x-two": ["one", "two"],
                "x-evil": "\\xFF\\xC2\\x9B",
            })
        );
        for page in [html(&failure, &request), text(&failure, &request)] {
            assert!(!page.contains("XYZZY"), "{page}");
            for shown in ["[redacted]", "text/html", "x-two", "/a?b=c+%C3%A9%1B"] {
                assert!(page.contains(shown), "no {shown} in {page}");
            }
        }
    }
}
