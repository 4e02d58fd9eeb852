//! Responses that nibiru gives in the application's place.

use super::head::{Head, Status};
use super::reason::reason;

/// A whole response of nibiru's own, in the application's place. `message` is one line of text; `retry_after` is in seconds.
pub fn failure(status: u16, message: &str, retry_after: Option<u32>) -> Vec<u8> {
    let title = match reason(status) {
        "" => status.to_string(),
        reason => format!("{status} {reason}"),
    };
    let body = if message.is_empty() { format!("{title}\n") } else { format!("{title}: {message}\n") };
    let retry_after = retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
    format!(
        "Status: {title}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         {retry_after}\r\n{body}",
        length = body.len(),
    )
    .into_bytes()
}

/// The head, its empty line included, and the body of a [`failure`].
pub fn split_failure(response: &[u8]) -> (&[u8], &[u8]) {
    match Head::parse(response) {
        Ok(Status::Complete { consumed, .. }) => response.split_at(consumed),
        Ok(Status::Partial) | Err(_) => (response, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_a_whole_response() {
        let response = failure(503, "the queue is full", Some(2));
        let expected = "Status: 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
                        Content-Length: 43\r\nRetry-After: 2\r\n\r\n503 Service Unavailable: the queue is full\n";
        assert_eq!(String::from_utf8(response).unwrap(), expected);
        for (status, message) in [(400, "caf\u{e9}"), (500, ""), (599, "x"), (599, "")] {
            let response = failure(status, message, None);
            let Ok(Status::Complete { head, consumed }) = Head::parse(&response) else {
                panic!("{status}: no whole head");
            };
            assert_eq!(head.status, status);
            assert_eq!(head.content_length, Some((response.len() - consumed) as u64));
            assert_eq!(head.reason, reason(status).as_bytes());
        }
    }
}
