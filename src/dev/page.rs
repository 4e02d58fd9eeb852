//! The error page: a [`Failure`] as HTML, JSON or text, whichever the client reads best.
//!
//! Whole in itself: no script, no asset from anywhere. All that comes from outside is escaped here.

use std::fmt::Write as _;

use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use serde_json::{Value, json};

use super::answer::{self, Answer};
use super::failure::{Excerpt, Failure};

/// What the page says about the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    /// Of the response: `500`, or `504` for a request that ran for too long.
    pub(super) status: StatusCode,
    pub(super) method: &'a str,
    /// Path and query.
    pub(super) target: &'a str,
    /// In the log, too.
    pub(super) id: &'a str,
}

/// Renders `failure` as the client's Accept header, `accept`, wants it.
pub(super) fn render(failure: &Failure, about: About<'_>, accept: &str) -> Answer {
    let (content_type, page) = match Format::negotiate(accept) {
        Format::Html => ("text/html; charset=utf-8", html(failure, about)),
        Format::Json => ("application/json", json(failure, about)),
        Format::Text => ("text/plain; charset=utf-8", text(failure)),
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
    /// The type of the two that Accept names with the higher weight, the first of equals. Text for those that
    /// name neither: `*/*` is what curl sends, and a person reads that at a terminal.
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

fn text(failure: &Failure) -> String {
    let mut page = format!("{}: {}\n", kind(failure), failure.message);
    if !failure.traceback.is_empty() {
        page.push_str("stack traceback:\n");
    }
    for frame in &failure.traceback {
        page.extend(["\t", frame, "\n"]);
    }
    page
}

fn json(failure: &Failure, about: About<'_>) -> String {
    let source = |excerpt: &Excerpt| {
        let lines: Vec<Value> =
            excerpt.lines.iter().map(|(number, text)| json!({ "number": number, "text": text })).collect();
        json!({ "file": excerpt.file.to_string_lossy(), "line": excerpt.line, "lines": lines })
    };
    let page = json!({
        "status": about.status.as_u16(),
        "error": kind(failure),
        "message": failure.message,
        "traceback": failure.traceback,
        "source": failure.excerpts.iter().map(source).collect::<Vec<_>>(),
        "written": failure.written,
        "request": { "method": about.method, "target": about.target, "id": about.id },
    });
    format!("{page:#}\n")
}

fn html(failure: &Failure, about: About<'_>) -> String {
    let (headline, kind) = (escape(&failure.headline), kind(failure));
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{headline}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n\
         <p class=\"kind\">{kind} <span>&middot; {} {}</span></p>\n<h1>{headline}</h1>\n",
        include_str!("page.css"),
        escape(about.method),
        escape(about.target),
    );
    if !failure.excerpts.is_empty() {
        page.push_str("<section class=\"source\">\n");
        failure.excerpts.iter().for_each(|excerpt| push_source(&mut page, excerpt));
        page.push_str("</section>\n");
    }
    // One line whose place is shown above has nothing to add.
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
             <tr><th>Id in the log</th><td>{}</td></tr>\n</table></div>\n\
             <footer>Only <code>nibiru dev</code> shows this page. Save the file and load the page again.</footer>\n\
             </main>\n</body>\n</html>\n",
            escape(about.method),
            escape(about.target),
            escape(about.id),
        ),
    );
    page
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

/// Text as HTML shows it, also within quotes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
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
        let page = html(
            &failure,
            About { status: StatusCode::INTERNAL_SERVER_ERROR, method: &evil, target: &evil, id: &evil },
        );
        assert!(!page.contains("<script"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;&quot;&#39;&amp;").count(), 12, "{page}");
    }
}
