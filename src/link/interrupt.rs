//! What the gateway's interrupt of a running request says, in the one number that a queued signal carries.
//! Std only.
//!
//! The link is of no use for it: a worker reads that between two requests. A signal reaches it anywhere,
//! and may come late, so it names the request it is meant for: both sides count the requests that
//! went over the link. One that names another than the running one is dropped, so a late interrupt never
//! hits the next request.

/// What the interrupted code is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tell its stack and go on.
    Trace,
    /// Tell its stack and fail.
    Timeout,
}

/// One interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// What is to be done.
    pub kind: Kind,
    /// For which request.
    pub serial: Serial,
}

/// Which request of a worker's life. 31 bits, so that with the kind it fits a signal's number everywhere; it comes
/// round after two thousand million requests, and no signal is as late as that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serial(u32);

impl Serial {
    /// The one after this; the first request of a worker is the one after the default.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1) & (u32::MAX >> 1))
    }

    /// As a number.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl Interrupt {
    /// The number that the signal carries.
    pub fn encode(self) -> u32 {
        self.serial.0 << 1 | u32::from(self.kind == Kind::Timeout)
    }

    /// What a signal's number says.
    pub fn decode(number: u32) -> Self {
        let kind = if number & 1 == 1 { Kind::Timeout } else { Kind::Trace };
        Self { kind, serial: Serial(number >> 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interrupt_comes_back_as_it_went() {
        for serial in [Serial(0), Serial::default().next(), Serial(u32::MAX >> 1)] {
            for kind in [Kind::Trace, Kind::Timeout] {
                let interrupt = Interrupt { kind, serial };
                assert_eq!(Interrupt::decode(interrupt.encode()), interrupt);
            }
        }
        assert_eq!(Serial(u32::MAX >> 1).next(), Serial(0));
    }
}
