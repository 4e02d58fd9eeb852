//! Values that are a number: sizes, spans of time, counts. Each kind has an upper bound, so that sums cannot overflow.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::value::{Value, expected};

/// The longest span of time: ten years. The sum with any time of the monotonic clock exists.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

/// The largest size: 1 PiB, more than any machine's memory or disk has today.
const LARGEST: u64 = 1 << 50;

/// The highest count: more requests than a worker answers in its life, and more than could wait. Sums of two fit `u32`.
const MOST: u32 = 1_000_000_000;

/// A size in bytes: `65536`, `64K`, `64M`, `1G`; K, M and G are powers of 1024, as in nginx and php.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, shift) = match text.as_bytes().last() {
            Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
            Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
            Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
            _ => (text, 0),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(expected::<Self>());
        }
        let bytes = digits.parse().ok().and_then(|number: u64| number.checked_mul(1 << shift));
        bytes
            .filter(|bytes| *bytes <= LARGEST)
            .map(Self)
            .ok_or_else(|| format!("expected a size of at most {}", Self(LARGEST)))
    }
}

impl Value for Size {
    const EXPECTED: &'static str = "a size such as 65536, 64K, 64M or 1G";
    const NUMBER: bool = true;
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "G"), (20, "M"), (10, "K")];
        let whole = units.iter().find(|(shift, _)| self.0 > 0 && self.0.trailing_zeros() >= *shift);
        let (shift, unit) = whole.unwrap_or(&(0, ""));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

/// A span of time: `30s`, `100ms`, `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match humantime::parse_duration(text) {
            Ok(time) if time <= LONGEST => Ok(Self(time)),
            Ok(_) | Err(humantime::DurationError::NumberOverflow) => {
                Err("expected a time of at most ten years (3650d)".to_owned())
            }
            Err(_) => Err(expected::<Self>()),
        }
    }
}

impl Value for Time {
    const EXPECTED: &'static str = "a time with its unit, such as 30s, 100ms or 2m";
    // A bare number is refused all the same, with a message about its unit.
    const NUMBER: bool = true;
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A count, of at least zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub u32);

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(expected::<Self>());
        }
        let count = text.parse().ok().filter(|count| *count <= MOST);
        count.map(Self).ok_or_else(|| format!("expected a number of at most {MOST}"))
    }
}

impl Value for Count {
    const EXPECTED: &'static str = "a number such as 1000";
    const NUMBER: bool = true;
}

/// A count, of at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positive(pub u32);

impl FromStr for Positive {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(Count(0)) => Err(expected::<Self>()),
            Ok(Count(count)) => Ok(Self(count)),
            Err(cause) if cause == expected::<Count>() => Err(expected::<Self>()),
            Err(cause) => Err(cause),
        }
    }
}

impl Value for Positive {
    const EXPECTED: &'static str = "a number above zero";
    const NUMBER: bool = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("65536", 65536), ("64K", 65536), ("1g", 1 << 30), ("64M", 64 << 20)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "K", "-1", "+1", "1.5M", "64MB", "0x10", " 1", "off"] {
            assert_eq!(text.parse::<Size>(), Err(expected::<Size>()), "{text}");
        }
        for text in ["99999999999G", "18446744073709551615", "99999999999999999999", "1048577G"] {
            let cause = text.parse::<Size>().unwrap_err();
            assert_eq!(cause, "expected a size of at most 1048576G", "{text}");
        }
        for (bytes, text) in [(0, "0"), (1, "1"), (1536, "1536"), (120 << 10, "120K"), (4 << 20, "4M")] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn times() {
        for (text, millis) in [("0s", 0), ("1ms", 1), ("1500ms", 1500), ("2m", 120_000), ("1h 1s", 3_601_000)]
        {
            assert_eq!(text.parse(), Ok(Time(Duration::from_millis(millis))), "{text}");
        }
        for text in ["", "30", "-1s", "1", "1 parsec", "s", "off"] {
            assert_eq!(text.parse::<Time>(), Err(expected::<Time>()), "{text}");
        }
        for text in ["3651d", "18446744073709551615s", "99999999999999999999s", "600000000y"] {
            let cause = text.parse::<Time>().unwrap_err();
            assert_eq!(cause, "expected a time of at most ten years (3650d)", "{text}");
        }
        // The gateway adds no more than four such spans to a clock's time.
        assert!(std::time::Instant::now().checked_add(LONGEST * 4).is_some());
    }

    #[test]
    fn counts() {
        assert_eq!("0".parse(), Ok(Count(0)));
        assert_eq!("1000000000".parse(), Ok(Count(MOST)));
        for text in ["", "-1", "+1", "x", "1K", "1.0"] {
            assert_eq!(text.parse::<Count>(), Err(expected::<Count>()), "{text}");
            assert_eq!(text.parse::<Positive>(), Err(expected::<Positive>()), "{text}");
        }
        assert_eq!("0".parse::<Positive>(), Err("expected a number above zero".to_owned()));
        for text in ["1000000001", "4294967296", "99999999999999999999"] {
            assert_eq!(
                text.parse::<Count>(),
                Err("expected a number of at most 1000000000".to_owned()),
                "{text}"
            );
            assert_eq!(
                text.parse::<Positive>(),
                Err("expected a number of at most 1000000000".to_owned()),
                "{text}"
            );
        }
    }
}
