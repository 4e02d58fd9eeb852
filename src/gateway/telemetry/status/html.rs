//! The status as a page for people: readable as it comes, live where scripts run.
//!
//! Fills `page.html` in. All text of a request or of the operator is escaped here, and the page's policy lets no script run but
//! its own.

use std::fmt::{self, Write};

use crate::link::status::{Status, Worker};
use crate::log::{ByteSize, Span, escape};
use crate::os::random;

/// Placeholders are `{{NAME}}`.
const PAGE: &str = include_str!("page.html");

/// The nonce of a page, which cannot be guessed: only the script and the style that carry it are run and applied.
pub(super) fn nonce() -> String {
    // Without randomness (early boot) the nonce is a known one; all text is escaped in any case.
    format!("{:032x}", u128::from_be_bytes(random::bytes_or_zeros()))
}

/// The page's Content-Security-Policy.
pub(super) fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The page that shows `status`.
pub(super) fn page(status: &Status, nonce: &str) -> String {
    let mut page = String::with_capacity(PAGE.len() + 512 * status.workers.len());
    let mut rest = PAGE;
    // One pass, so that nothing that is filled in is looked at again.
    while let Some((before, (name, after))) =
        rest.split_once("{{").and_then(|(before, rest)| Some((before, rest.split_once("}}")?)))
    {
        page.push_str(before);
        // A string takes everything.
        let _ = fill(&mut page, name, status, nonce);
        rest = after;
    }
    page.push_str(rest);
    page
}

fn fill(page: &mut String, name: &str, status: &Status, nonce: &str) -> fmt::Result {
    let (queue, pool, requests) = (&status.queue, &status.pool, &status.requests);
    match name {
        "nonce" => page.write_str(nonce),
        "app" => page.write_str(&escape::html(&status.app)),
        "version" => page.write_str(&status.version),
        "verdict" => page.write_str(&status.verdict),
        "reason" => page.write_str(&escape::html(&status.reason)),
        "generation" => write!(page, "{}", status.generation),
        "uptime" => span(page, status.uptime),
        "started" => write!(page, "{}", status.started),
        "pid" => write!(page, "{}", status.pid),
        "workers" => status.workers.iter().try_for_each(|worker| row(page, worker)),
        "busy" => write!(page, "{}", pool.busy),
        "total" => write!(page, "{}", pool.starting + pool.idle + pool.busy + pool.leaving),
        "queue" => write!(page, "{}", queue.length),
        "capacity" => write!(page, "{}", queue.capacity),
        "oldest" => write!(page, "{}", Span(queue.oldest_wait)),
        "connections" => write!(page, "{}", status.connections.open),
        "requests" => write!(page, "{}", requests.total),
        "failed" => write!(page, "{}", requests.by_status.get("5xx").unwrap_or(&0)),
        "refused" => write!(page, "{}", requests.refused.values().sum::<u64>()),
        "unfinished" => write!(page, "{}", requests.aborted + requests.broken),
        "p50" => span(page, status.service_time.p50),
        "p99" => span(page, status.service_time.p99),
        _ => Ok(()),
    }
}

/// Appends a duration in seconds, or a dash where it is not known.
fn span(page: &mut String, seconds: Option<f64>) -> fmt::Result {
    match seconds {
        Some(seconds) => write!(page, "{}", Span(seconds)),
        None => page.write_char('–'),
    }
}

/// The table's row of a worker. The page's script writes the same row again.
fn row(page: &mut String, worker: &Worker) -> fmt::Result {
    write!(
        page,
        "<tr><td class=\"n\">{number}<td><span class=\"state {state}\">{state}</span><td class=\"run\">",
        number = worker.number,
        state = worker.state,
    )?;
    match &worker.request {
        Some(request) => {
            let line = escape::html(&request.line);
            write!(page, "<code>{line}</code><td class=\"n\">")?;
            span(page, request.time)?;
        }
        None => page.write_str("<td class=\"n\">")?,
    }
    write!(page, "<td class=\"n\">{}<td class=\"n wide\">", worker.requests)?;
    span(page, worker.p99)?;
    page.write_str("<td class=\"n wide\">")?;
    span(page, worker.age)?;
    page.write_str("<td class=\"n\">")?;
    match worker.pss {
        Some(bytes) => write!(page, "{}", ByteSize(bytes))?,
        None => page.write_char('–')?,
    }
    write!(page, "<td class=\"n wide\">{}<td class=\"n wide\">", worker.generation)?;
    match worker.pid {
        Some(pid) => writeln!(page, "{pid}"),
        None => writeln!(page, "–"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_differ() {
        assert_ne!(nonce(), nonce());
        assert_eq!(nonce().len(), 32);
    }
}
