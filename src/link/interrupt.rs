//! The interrupt of a running request: the one number that a queued signal of the gateway's carries. Std only.
//!
//! A worker reads its link between two requests only. A signal reaches it anywhere, and may come late, so it names its request:
//! both sides count the requests that went over the link. A worker drops an interrupt that names another request than the running
//! one, so a late interrupt never hits the next request.

/// The task of the interrupted code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tell the stack and go on.
    Trace,
    /// Tell the stack and fail.
    Timeout,
}

/// One interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// The task of the interrupted code.
    pub kind: Kind,
    /// The request to interrupt.
    pub serial: Serial,
}

/// The number of a request in its worker's life. 31 bits, so that with the kind it fits a signal's number everywhere. It wraps
/// after two thousand million requests; no signal is that late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serial(u32);

impl Serial {
    /// The next number. A worker's first request has the number after the default.
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

    /// The interrupt that a signal's number stands for.
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
