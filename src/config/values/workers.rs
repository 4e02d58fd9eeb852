//! The number of workers: fixed, or a range.

use std::fmt;
use std::str::FromStr;

use super::value::{Value, expected};

/// The highest number of workers: far beyond any machine's, and small enough to catch a slip of the finger.
pub const MAX_WORKERS: u32 = 10_000;

/// The number of workers: `4`, or `2-8` to scale between the two. The lower bound may be 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// Workers that are kept when there is nothing to do.
    pub min: u32,
    /// Workers at a time at most; at least 1 and at least `min`.
    pub max: u32,
}

impl Workers {
    /// A fixed number of workers.
    pub fn fixed(count: u32) -> Self {
        Self { min: count, max: count }
    }
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        match (min.parse(), max.parse()) {
            (Ok(min), Ok(max)) if max >= 1 && min <= max && max <= MAX_WORKERS => Ok(Self { min, max }),
            (Ok(_), Ok(max)) if max > MAX_WORKERS => Err(format!("at most {MAX_WORKERS}")),
            _ => Err(expected::<Self>()),
        }
    }
}

impl Value for Workers {
    const EXPECTED: &'static str = "a number such as 4, or a range such as 0-8";
    const NUMBER: bool = true;
}

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.max) } else { write!(f, "{}-{}", self.min, self.max) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_a_number_or_a_range() {
        for (text, min, max) in [("1", 1, 1), ("0-1", 0, 1), ("2-8", 2, 8), ("3-3", 3, 3)] {
            assert_eq!(text.parse(), Ok(Workers { min, max }), "{text}");
        }
        for text in ["", "0", "0-0", "3-2", "-2", "2-", "1-2-3", "1-10001", "a"] {
            assert!(text.parse::<Workers>().is_err(), "{text}");
        }
    }
}
