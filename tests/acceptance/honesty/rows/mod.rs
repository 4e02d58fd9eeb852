//! The rows of the tables of responses. After a change here, copy the table that the failing test prints into the page.

mod bodies;
mod headers;
mod hostile;

use super::{Does, Row, Section};

const fn row(what: &'static str, does: Does, seen: [&'static str; 4], log: &'static str) -> Row {
    Row { what, method: "GET", does, fields: &[], broken: false, seen, log }
}

const fn runs(what: &'static str, lua: &'static str, seen: [&'static str; 4], log: &'static str) -> Row {
    row(what, Does::Runs(lua), seen, log)
}

/// A header, given in each form of [`Does::Says`].
const fn header(
    what: &'static str,
    name: &'static str,
    value: &'static str,
    seen: [&'static str; 4],
    log: &'static str,
) -> Row {
    row(what, Does::Says("200", name, value), seen, log)
}

/// A status, given in each form of [`Does::Says`].
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

    /// Marks that the application fails after its head.
    const fn broken(mut self) -> Self {
        self.broken = true;
        self
    }
}

/// A body without a length that breaks off. Only Caddy 2.6.2 takes it for complete.
const BREAKS: [&str; 4] = ["breaks", "breaks", "**200 `hello`, looks complete**", "breaks"];

const LENGTH: &[&str] = &["Content-Length"];

pub(super) const SECTIONS: &[Section] = &[
    Section { title: "Length", rows: bodies::LENGTHS },
    Section { title: "Responses without a body", rows: bodies::BODILESS },
    Section { title: "Given twice, or not the application's", rows: headers::FIELDS },
    Section { title: "Splitting a response", rows: headers::SPLITTING },
    Section { title: "Failing", rows: bodies::FAILING },
    Section { title: "A worker that goes round nibiru's Lua", rows: hostile::ROWS },
];
