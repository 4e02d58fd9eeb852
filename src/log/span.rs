//! Spans of time for people: in log lines, in the text of `nibiru status`, on the status page, in messages of commands.
//!
//! Fields such as `grace_s=30` are for programs, and stay numbers. The value of a setting in a message about the configuration
//! keeps the syntax of settings (`config::Time`).

use std::fmt;
use std::time::Duration;

/// A span of time in seconds, displayed with at most two units: `740 µs`, `4.2 ms`, `12 ms`, `1.5 s`, `30 s`, `3 min 20 s`,
/// `2 h 5 min`, `12 d 3 h`. A whole number of seconds has no decimal; a second unit of zero is omitted.
///
/// The script of the status page (`telemetry/status/page.html`) has the same form, for numbers that it updates itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span(pub f64);

impl From<Duration> for Span {
    fn from(time: Duration) -> Self {
        Self(time.as_secs_f64())
    }
}

impl fmt::Display for Span {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates, which does")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0;
        let whole = seconds as u64;
        let (large, unit, small, small_unit) = match whole {
            _ if seconds <= 0.0 => return f.write_str("0 s"),
            _ if seconds < 0.000_999_5 => return write!(f, "{:.0} µs", seconds * 1e6),
            _ if seconds < 0.01 => return write!(f, "{:.1} ms", seconds * 1e3),
            _ if seconds < 0.999_5 => return write!(f, "{:.0} ms", seconds * 1e3),
            0..10 if seconds.fract() > 0.0 => return write!(f, "{seconds:.1} s"),
            0..60 => return write!(f, "{whole} s"),
            60..3600 => (whole / 60, "min", whole % 60, "s"),
            3600..86_400 => (whole / 3600, "h", whole / 60 % 60, "min"),
            _ => (whole / 86_400, "d", whole / 3600 % 24, "h"),
        };
        write!(f, "{large} {unit}")?;
        if small > 0 { write!(f, " {small} {small_unit}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_two_units_at_most() {
        for (seconds, text) in [
            (0.0, "0 s"),
            (-1.0, "0 s"),
            (0.000_25, "250 µs"),
            (0.004_2, "4.2 ms"),
            (0.25, "250 ms"),
            (1.0, "1 s"),
            (1.003, "1.0 s"),
            (1.5, "1.5 s"),
            (30.0, "30 s"),
            (59.9, "59 s"),
            (60.0, "1 min"),
            (200.0, "3 min 20 s"),
            (3600.0, "1 h"),
            (7_500.0, "2 h 5 min"),
            (86_400.0, "1 d"),
            (1e6, "11 d 13 h"),
        ] {
            assert_eq!(Span(seconds).to_string(), text);
        }
        assert_eq!(Span::from(Duration::from_millis(2500)).to_string(), "2.5 s");
    }
}
