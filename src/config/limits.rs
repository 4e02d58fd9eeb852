//! The least and the largest values of single settings. A value beyond such a bound parses, but would cause an outage that does
//! not show its cause; the message gives the reason of the bound.

use std::time::Duration;

use super::error::ConfigError;
use super::options::Options;
use super::values::{Count, OrOff, Size, Time};

/// The least time that a client is given. Under load a process may not run for some of it, so that a shorter limit cuts off
/// healthy clients.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);

/// The least time that a request is given. The event loop's clock ticks in milliseconds, and under load a worker may not run for
/// some of them.
const LEAST_RUN: Duration = Duration::from_millis(10);

/// The least age at which a worker is replaced. A shorter one ends while the worker's successor still starts.
const LEAST_AGE: Duration = Duration::from_secs(1);

/// The least `--max-params`. A browser's request has 1 to 2 KiB of parameters with nginx's `fastcgi_params`, and more with cookies.
const LEAST_PARAMS: Size = Size(4 << 10);

/// The largest `--max-params`. A request's parameters and a small body share one packet between the gateway and a worker, of
/// [`crate::link::message::MAX_PACKET`] bytes.
const MOST_PARAMS: Size = Size(120 << 10);

/// The least `--memory-limit`. A worker with an application of one line writes to 0.6 MiB, and a request takes as much again.
const LEAST_MEMORY_LIMIT: Size = Size(4 << 20);

/// The least `--max-memory`. A worker with an application of one line takes 1.6 MiB.
const LEAST_MAX_MEMORY: Size = Size(1 << 20);

/// The least `--max-spool`. A body in a file has more than 64 KiB, and slow clients' responses may take half of the room.
const LEAST_SPOOL: Size = Size(128 << 10);

/// The least `--buffer-memory`. The largest request that stays in memory, with parameters and body, takes a quarter of it.
const LEAST_BUFFER_MEMORY: Size = Size(1 << 20);

/// Refuses values that would mean an outage.
///
/// # Errors
/// The first such setting, with the reason and the bound.
pub(super) fn check(options: &Options) -> Result<(), ConfigError> {
    let on = |time: Option<OrOff<Time>>| time.and_then(OrOff::set);
    let closes = "would close connections before their request is there";
    let times = [
        ("header-timeout", options.header_timeout, LEAST_PATIENCE, closes),
        ("body-timeout", options.body_timeout, LEAST_PATIENCE, "would refuse bodies that are on their way"),
        ("send-timeout", options.send_timeout, LEAST_PATIENCE, "would break answers off"),
        ("stream-timeout", on(options.stream_timeout), LEAST_PATIENCE, "would break answers off"),
        ("queue-timeout", options.queue_timeout, LEAST_RUN, "would refuse every request that has to wait"),
        ("queue-target", options.queue_target, LEAST_RUN, "would take every wait for an overload"),
        ("queue-interval", options.queue_interval, LEAST_PATIENCE, "would take a burst for an overload"),
        ("request-timeout", on(options.request_timeout), LEAST_RUN, "would end every request with 504"),
        ("slow-log", on(options.slow_log), LEAST_RUN, "would log every request"),
        ("start-timeout", on(options.start_timeout), LEAST_PATIENCE, "would let no application load"),
        ("max-age", on(options.max_age), LEAST_AGE, "would replace workers without end"),
        (
            "exit-idle-time",
            on(options.exit_idle_time),
            LEAST_RUN,
            "would end the server before anybody connects",
        ),
    ];
    for (key, given, least, reason) in times {
        if given.is_some_and(|Time(time)| time < least) {
            return Err(ConfigError::new(key, format!("{reason}; use {} or more", Time(least))));
        }
    }
    let size = |size: Option<OrOff<Size>>| size.and_then(OrOff::set);
    let sizes = [
        ("max-params", options.max_params, LEAST_PARAMS, "would refuse ordinary requests with 431"),
        ("max-body", options.max_body, Size(1), "would refuse every request that has a body with 413"),
        (
            "buffer-memory",
            options.buffer_memory,
            LEAST_BUFFER_MEMORY,
            "would refuse ordinary requests with 503",
        ),
        ("max-spool", options.max_spool, LEAST_SPOOL, "would refuse every body over 64K with 503"),
        ("memory-limit", size(options.memory_limit), LEAST_MEMORY_LIMIT, "would let no worker start"),
        ("max-memory", size(options.max_memory), LEAST_MAX_MEMORY, "would replace every worker at once"),
    ];
    for (key, given, least, reason) in sizes {
        if let Some(bytes) = given.filter(|bytes| *bytes < least) {
            let meant = forgotten_unit(bytes, least)
                .map_or_else(String::new, |size| format!(" (did you mean {size}?)"));
            return Err(ConfigError::new(key, format!("{reason}; use {least} or more{meant}")));
        }
    }
    if options.max_params.is_some_and(|size| size > MOST_PARAMS) {
        return Err(ConfigError::new("max-params", format!("at most {MOST_PARAMS}")));
    }
    let keeps_no_worker = options.workers.is_some_and(|workers| workers.min == 0);
    if options.queue == Some(Count(0)) && keeps_no_worker {
        let cause = "would refuse every request, since none may wait for the first worker (--workers)";
        return Err(ConfigError::new("queue", cause));
    }
    Ok(())
}

/// The size with the unit that was probably left out: `64M` for `64`. `None` where the unit would not help.
fn forgotten_unit(given: Size, least: Size) -> Option<Size> {
    let bare = !given.0.is_multiple_of(1024);
    let unit = if least >= Size(1 << 20) { 20 } else { 10 };
    bare.then_some(Size(given.0 << unit)).filter(|meant| *meant >= least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::samples::file;

    #[test]
    fn values_that_would_mean_an_outage_are_refused_with_the_reason() {
        for (setting, cause) in [
            (
                "header-timeout = '0s'",
                "would close connections before their request is there; use 100ms or more",
            ),
            ("body-timeout = '0s'", "would refuse bodies that are on their way; use 100ms or more"),
            ("send-timeout = '99ms'", "would break answers off; use 100ms or more"),
            ("queue-timeout = '0s'", "would refuse every request that has to wait; use 10ms or more"),
            ("request-timeout = '1ns'", "would end every request with 504; use 10ms or more"),
            ("start-timeout = '1ms'", "would let no application load; use 100ms or more"),
            ("max-age = '1ms'", "would replace workers without end; use 1s or more"),
            ("max-params = 0", "would refuse ordinary requests with 431; use 4K or more"),
            (
                "max-params = 64",
                "would refuse ordinary requests with 431; use 4K or more (did you mean 64K?)",
            ),
            ("max-body = 0", "would refuse every request that has a body with 413; use 1 or more"),
            (
                "buffer-memory = 64",
                "would refuse ordinary requests with 503; use 1M or more (did you mean 64M?)",
            ),
            ("max-spool = 0", "would refuse every body over 64K with 503; use 128K or more"),
            ("memory-limit = '1K'", "would let no worker start; use 4M or more"),
            ("max-memory = 64", "would replace every worker at once; use 1M or more (did you mean 64M?)"),
            ("max-requests = 0", "expected a number above zero, or off"),
            ("max-connections = 0", "expected a number above zero"),
            ("socket-mode = '0440'", "nobody could connect, which needs write permission; use 0660"),
        ] {
            let key = setting.split(' ').next().unwrap();
            let given = file(setting).and_then(|options| {
                Config::new(Options { app: Some("a".into()), ..options }).map_err(|error| error.to_string())
            });
            let said = given.unwrap_err();
            let named = [format!("{key}: {cause}"), format!("nibiru.toml:1: {setting}: {cause}")];
            assert!(named.contains(&said), "{said}");
        }
        let none = file("app = 'a'\nqueue = 0\nworkers = '0-4'").unwrap();
        assert!(Config::new(none).unwrap_err().to_string().starts_with("queue: would refuse every request"));
        assert!(Config::new(file("app = 'a'\nqueue = 0\nworkers = 4").unwrap()).is_ok());
    }

    #[test]
    fn limits_that_the_processes_could_not_keep_are_refused() {
        let options =
            Options { app: Some("a".into()), max_params: Some(Size(1 << 20)), ..Options::default() };
        assert_eq!(Config::new(options).unwrap_err().to_string(), "max-params: at most 120K");
        assert!(Config::new(Options::default()).unwrap_err().to_string().starts_with("no application"));
    }
}
