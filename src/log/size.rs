//! Sizes for people: in messages, in the text of `nibiru status`, on the status page.
//!
//! Counts that a reader compares with a Content-Length stay exact, in bytes. The value of a setting in a message about the
//! configuration keeps the syntax of settings (`config::Size`).

use std::fmt;

/// A size in bytes, displayed in binary units: `512 B`, `64 KiB`, `6.1 MiB`, `64 MiB`, `1.5 GiB`. An exact multiple of the unit
/// has no decimal.
///
/// The script of the status page (`telemetry/status/page.html`) has the same form, for numbers that it updates itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl fmt::Display for ByteSize {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        let (shift, unit) = match bytes {
            0..0x400 => return write!(f, "{bytes} B"),
            0x400..0x10_0000 => (10, "KiB"),
            0x10_0000..0x4000_0000 => (20, "MiB"),
            _ => (30, "GiB"),
        };
        let one = 1_u64 << shift;
        if bytes.is_multiple_of(one) {
            write!(f, "{} {unit}", bytes >> shift)
        } else {
            write!(f, "{:.1} {unit}", bytes as f64 / one as f64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_one_decimal_at_most() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (64 << 10, "64 KiB"),
            ((5 << 20) + (1 << 19), "5.5 MiB"),
            (64 << 20, "64 MiB"),
            ((64 << 20) + 4096, "64.0 MiB"),
            (1 << 30, "1 GiB"),
            (3 << 29, "1.5 GiB"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }
}
