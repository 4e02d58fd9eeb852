//! The time at which a proxy has received a request, in the forms that proxies send it: nginx's `t=${msec}` and the
//! `X-Request-Start` of Heroku's router. Std only; told the time.

use std::time::Duration;

/// The longest time between the proxy and now. Beyond it a clock is wrong: no proxy holds a request for so long.
const LONGEST: Duration = Duration::from_secs(60);

/// The least number that counts microseconds since 1970. Each of the two bounds is 1973 in its own unit, and thousands of years ahead
/// in the next coarser unit.
const MICROSECONDS: f64 = 1e14;
/// The least number that counts milliseconds since 1970; a smaller number counts seconds.
const MILLISECONDS: f64 = 1e11;

/// The time from a request's arrival at the proxy, which sends this value, to `now` (since 1970). Zero where the value is no time,
/// or a time in the future, as from a proxy whose clock is ahead.
pub fn time_before(value: &[u8], now: Duration) -> Duration {
    let text = value.strip_prefix(b"t=").unwrap_or(value);
    let plain = text.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    let number = str::from_utf8(text).ok().filter(|_| plain).and_then(|text| text.parse::<f64>().ok());
    let seconds = number.map(|number| match number {
        _ if number >= MICROSECONDS => number / 1e6,
        _ if number >= MILLISECONDS => number / 1e3,
        _ => number,
    });
    let start = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let before = start.map_or(Duration::ZERO, |start| now.saturating_sub(start));
    if before > LONGEST { Duration::ZERO } else { before }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_proxies_and_nothing_else() {
        let now = Duration::from_millis(1_700_000_000_250);
        let before = |value: &str| time_before(value.as_bytes(), now).as_micros().div_ceil(10) / 100;
        for known in
            ["t=1700000000.000", "1700000000.000", "1700000000000", "t=1700000000000", "t=1700000000000000"]
        {
            assert_eq!(before(known), 250, "{known}");
        }
        let ignored = [
            "",
            "t=",
            "t=1700000000.251",
            "1700000009",
            "t=1699999900",
            "0",
            "-1",
            "1e9",
            "inf",
            "nan",
            "t=t=1700000000",
            "1700000000 ",
            "17000000000000000000000000000000000000000000",
            "1.7.0",
            "\u{ff11}",
        ];
        for ignored in ignored {
            assert_eq!(before(ignored), 0, "{ignored}");
        }
        assert_eq!(time_before(b"\xff", now), Duration::ZERO);
    }
}
