//! How a request ended, in the words of the metrics, the status and the access log.

/// Why the gateway itself answered a request that no worker had seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// As many requests share its connection as may.
    ConnectionFull,
    /// FastCGI's parameters are broken, or too long (`--max-params`).
    Params,
    /// The variables contradict each other, or one that is required is missing.
    Variables,
    /// The body is larger than `--max-body`.
    BodyTooLarge,
    /// The body ended before its Content-Length.
    BodyTooShort,
    /// The body came too slowly (`--body-timeout`).
    BodyTimeout,
    /// The body could not be kept (`--max-spool`, a full disk).
    Spool,
    /// Clients hold as much memory as they may (`--buffer-memory`).
    Memory,
    /// As many wait as may (`--queue`).
    QueueFull,
    /// It waited too long (`--queue-timeout`).
    QueueTimeout,
    /// It waited longest in an overloaded queue (`--queue-order adaptive`).
    Overloaded,
    /// A worker was free, but the system did not let it have the request.
    NotHanded,
    /// Workers die before they have answered anything, and the next attempt is still to come.
    Down,
}

impl Refused {
    /// All of them, in the order of a request's life. Each stands at its own place.
    pub(crate) const ALL: [Self; 13] = [
        Self::ConnectionFull,
        Self::Params,
        Self::Variables,
        Self::BodyTooLarge,
        Self::BodyTooShort,
        Self::BodyTimeout,
        Self::Spool,
        Self::Memory,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::Overloaded,
        Self::NotHanded,
        Self::Down,
    ];

    /// Its name in metrics, JSON and the access log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ConnectionFull => "connection_full",
            Self::Params => "params",
            Self::Variables => "variables",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTooShort => "body_too_short",
            Self::BodyTimeout => "body_timeout",
            Self::Spool => "spool",
            Self::Memory => "memory",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Overloaded => "overloaded",
            Self::NotHanded => "not_handed",
            Self::Down => "down",
        }
    }
}

/// How a request ended, as far as the gateway can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a whole answer, whatever its status.
    Complete,
    /// Its client went away first.
    Aborted,
    /// Its answer could not be completed after the head was sent.
    Broken,
    /// With the gateway's own answer, and no worker has seen it.
    Refused(Refused),
}

impl End {
    /// Its name in the access log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Aborted => "aborted",
            Self::Broken => "broken",
            Self::Refused(why) => why.name(),
        }
    }
}
