//! Whether a request body is complete: the length that was promised against the bytes that have come.
//!
//! Called by the gateway for each piece of STDIN, and of a Filter's DATA. Keeps no bytes, waits for nothing.

use super::request::ContentLength;

/// A body that is arriving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    promised: ContentLength,
    /// Bytes of the body so far; never more than promised.
    received: u64,
    /// The body's stream has ended.
    ended: bool,
}

/// The completeness of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// More bytes are to come.
    Incomplete,
    /// All bytes have come. The end of the stream no longer matters: HAProxy over HTTP/2 sends no end of an empty body.
    Complete,
    /// The stream ended before the first of the promised bytes: the proxy keeps the body to itself, as nginx does with
    /// `fastcgi_pass_request_body off` and for a page of `error_page`.
    Withheld {
        /// Bytes that CONTENT_LENGTH promised.
        promised: u64,
    },
    /// The stream ended after a part of the promised bytes.
    Short {
        /// Bytes that were promised.
        promised: u64,
    },
}

impl Arrival {
    /// A body of which nothing has come yet.
    pub fn new(promised: ContentLength) -> Self {
        Self { promised, received: 0, ended: false }
    }

    /// Whether the length was promised.
    pub fn is_promised(&self) -> bool {
        self.promised != ContentLength::UntilEnd
    }

    /// Takes the next piece of the stream. Gives the number of its bytes that are the body's: bytes beyond the promise are
    /// not, nor bytes after the end.
    pub fn receive(&mut self, bytes: usize) -> usize {
        let room = match self.promised {
            ContentLength::Known(promised) => promised - self.received,
            ContentLength::UntilEnd if self.ended => 0,
            ContentLength::UntilEnd => u64::MAX - self.received,
        };
        let taken = usize::try_from(room).unwrap_or(usize::MAX).min(bytes);
        self.received += taken as u64;
        taken
    }

    /// The stream has ended.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// An end of the stream that may belong to the previous request with the same id. It counts where nothing else can complete
    /// the body. Where a length is promised, the promise decides: the application would otherwise run without a body that is on
    /// its way.
    pub fn end_in_doubt(&mut self) {
        self.ended |= self.promised == ContentLength::UntilEnd;
    }

    /// The body's completeness.
    pub fn completeness(&self) -> Completeness {
        match self.promised {
            ContentLength::Known(promised) if self.received == promised => Completeness::Complete,
            ContentLength::UntilEnd if self.ended => Completeness::Complete,
            ContentLength::Known(promised) if self.ended && self.received == 0 => {
                Completeness::Withheld { promised }
            }
            ContentLength::Known(promised) if self.ended => Completeness::Short { promised },
            ContentLength::Known(_) | ContentLength::UntilEnd => Completeness::Incomplete,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Completeness::{Complete, Incomplete, Short, Withheld};
    use super::*;
    use crate::cgi::Variables;
    use crate::cgi::request::Head;

    /// A body for which the proxy sent this CONTENT_LENGTH.
    fn promised(value: Option<&str>) -> Arrival {
        let mut variables = Variables::new();
        variables.push(b"REQUEST_METHOD", b"POST");
        if let Some(value) = value {
            variables.push(b"CONTENT_LENGTH", value.as_bytes());
        }
        Arrival::new(Head::parse(&mut variables).unwrap().content_length)
    }

    fn after(mut arrival: Arrival, pieces: &[usize]) -> Arrival {
        for piece in pieces {
            arrival.receive(*piece);
        }
        arrival
    }

    fn ended(mut arrival: Arrival) -> Completeness {
        arrival.end();
        arrival.completeness()
    }

    #[test]
    fn c19_a_promise_of_nothing_is_complete_at_once() {
        for value in ["0", "000"] {
            assert_eq!(promised(Some(value)).completeness(), Complete);
            assert_eq!(ended(promised(Some(value))), Complete, "a late end changes nothing");
            let mut arrival = promised(Some(value));
            assert_eq!(arrival.receive(5), 0, "nothing that comes all the same is the body's");
            assert_eq!(arrival.completeness(), Complete);
        }
    }

    #[test]
    fn c19_a_promise_is_complete_with_its_last_byte_whether_or_not_the_end_comes() {
        for pieces in [&[5][..], &[1, 1, 1, 1, 1], &[2, 3], &[4, 9], &[65_535]] {
            let arrival = after(promised(Some("5")), pieces);
            assert_eq!((arrival.completeness(), ended(arrival)), (Complete, Complete), "{pieces:?}");
            let before = after(promised(Some("5")), &pieces[..pieces.len() - 1]);
            assert_eq!(before.completeness(), Incomplete, "{pieces:?}");
        }
    }

    #[test]
    fn bytes_beyond_the_promise_are_not_the_bodys() {
        let mut arrival = promised(Some("5"));
        assert_eq!([arrival.receive(3), arrival.receive(3), arrival.receive(3)], [3, 2, 0]);
        let mut large = promised(Some("18446744073709551615"));
        assert_eq!(large.receive(65_535), 65_535);
        assert_eq!(large.completeness(), Incomplete);
    }

    #[test]
    fn c19_without_a_length_only_the_end_completes() {
        for value in [None, Some(""), Some("-1")] {
            assert_eq!(promised(value).completeness(), Incomplete, "{value:?}");
            assert_eq!(ended(promised(value)), Complete, "{value:?}");
            let arrival = after(promised(value), &[1, 70_000]);
            assert_eq!((arrival.completeness(), ended(arrival)), (Incomplete, Complete), "{value:?}");
            let mut over = promised(value);
            over.end();
            assert_eq!(over.receive(1), 0, "nothing follows the end");
        }
    }

    #[test]
    fn c19_an_end_before_the_first_byte_is_a_body_that_the_proxy_keeps_and_one_after_it_is_too_early() {
        assert_eq!(ended(promised(Some("4000"))), Withheld { promised: 4000 });
        assert_eq!(ended(after(promised(Some("4000")), &[1])), Short { promised: 4000 });
        assert_eq!(ended(after(promised(Some("4000")), &[1, 3998])), Short { promised: 4000 });
    }

    #[test]
    fn c9_an_end_that_may_be_the_previous_requests_never_takes_a_promised_body_away() {
        let in_doubt = |mut arrival: Arrival| {
            arrival.end_in_doubt();
            arrival
        };
        assert_eq!(in_doubt(promised(Some("4"))).completeness(), Incomplete);
        assert_eq!(after(in_doubt(promised(Some("4"))), &[4]).completeness(), Complete);
        assert_eq!(ended(in_doubt(promised(Some("4")))), Withheld { promised: 4 });
        assert_eq!(in_doubt(promised(Some("0"))).completeness(), Complete);
        // A GET: nothing else would ever complete it.
        assert_eq!(in_doubt(promised(None)).completeness(), Complete);
    }
}
