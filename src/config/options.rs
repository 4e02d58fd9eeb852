//! The table of settings: name, type, default and help of each, and when a change takes effect. clap reads the settings from
//! flags and variables, serde from the file; the reference page and the check of a reload follow the same rows.
//!
//! A new setting is a row here, a field of [`Config`](super::Config), and a row of `docs/reference/cli.md`; a test or the
//! compiler misses each of the latter two. `table.rs` has the meaning of the columns.

use std::path::PathBuf;

use super::values::{
    AccessLog, AccessLogQuery, BodyFileParam, Control, Count, Listen, LogTarget, Network, OrOff, ParamName,
    Positive, Preload, PriorityParam, ProxyHeader, QueueOrder, Sendfile, SendfileMap, Size, SocketMode,
    SocketOwner, Switch, Time, UrlPath, Workers,
};
use crate::log;

settings! {
    /// The application: module.path:name or path/to/file.lua[:name]
    app: Option<String> { argument: "APP", derived: "app, where ROOT has an app.lua", changes: Reload }

    /// Listen on unix:PATH, tcp:HOST:PORT, fd:N or systemd; repeatable
    listen: Vec<Listen> { value: "ADDR", derived: "unix:nibiru.sock", changes: Restart }

    /// Who may connect over TCP: an address or a network; repeatable
    allow_from: Vec<Network> { value: "CIDR", derived: "this machine", changes: Restart, short_help: false }

    /// Permissions of the Unix socket
    socket_mode: Option<SocketMode> { value: "MODE", default: "0660", changes: Restart }

    /// Owner of the Unix socket
    socket_owner: Option<OrOff<SocketOwner>> { value: "USER[:GROUP]", changes: Restart }

    /// Root of the application and working directory
    root: Option<PathBuf> { value: "DIR", default: ".", changes: Reload }

    /// Number of workers, or MIN-MAX to scale with the load
    workers: Option<Workers> { value: "N", derived: "number of CPUs", changes: Reload }

    /// A worker above MIN that is idle for so long ends
    idle_timeout: Option<Time> { value: "TIME", default: "60s", changes: Reload }

    /// How long a request may run; beyond: 504; or off
    request_timeout: Option<OrOff<Time>> { value: "TIME", default: "30s", changes: Reload }

    /// How long after that its worker is killed where it does not stop
    kill_after: Option<Time> { value: "TIME", default: "2s", changes: Reload }

    /// A request that runs for longer is logged with its Lua stack
    slow_log: Option<OrOff<Time>> { value: "TIME", default: "off", changes: Reload }

    /// How long loading and start hooks may take; or off
    start_timeout: Option<OrOff<Time>> { value: "TIME", default: "60s", changes: Reload, short_help: false }

    /// Replace a worker after so many requests; 1: a fresh state for each
    max_requests: Option<OrOff<Positive>> { value: "N", default: "off", changes: Reload }

    /// Up to so many requests more, by chance
    max_requests_jitter: Option<OrOff<Count>> { value: "N", default: "0", changes: Reload, short_help: false }

    /// Replace a worker that takes more memory (PSS)
    max_memory: Option<OrOff<Size>> { value: "SIZE", default: "off", changes: Reload }

    /// Replace a worker that is older
    max_age: Option<OrOff<Time>> { value: "TIME", default: "off", changes: Reload }

    /// Memory that a worker can have at all
    memory_limit: Option<OrOff<Size>> { value: "SIZE", default: "off", changes: Reload }

    /// Requests that may wait for a worker; beyond: 503
    queue: Option<Count> { value: "N", default: "1024", changes: Reload }

    /// How long a request may wait for a worker; beyond: 503
    queue_timeout: Option<Time> { value: "TIME", default: "10s", changes: Reload }

    /// Whose turn it is
    queue_order: Option<QueueOrder> { value: "ORDER", default: "adaptive", changes: Reload, short_help: false }

    /// How long a request may wait where there is no overload
    queue_target: Option<Time> { value: "TIME", default: "100ms", changes: Reload, short_help: false }

    /// For how long all wait longer until it is an overload
    queue_interval: Option<Time> { value: "TIME", default: "1s", changes: Reload, short_help: false }

    /// The proxy's parameter with the time at which it received the request
    request_start: Option<OrOff<ParamName>> { value: "PARAM", default: "off", changes: Reload, short_help: false }

    /// The proxy's parameter that marks requests which go first
    queue_priority: Option<OrOff<PriorityParam>> { value: "PARAM", default: "off", changes: Reload, short_help: false }

    /// How long a request's parameters may take to arrive; beyond: closed
    header_timeout: Option<Time> { value: "TIME", default: "30s", changes: Reload, short_help: false }

    /// How long a body may bring nothing, or come too slowly; beyond: 408
    body_timeout: Option<Time> { value: "TIME", default: "90s", changes: Reload, short_help: false }

    /// How long a client may take nothing of its answer; beyond: closed
    send_timeout: Option<Time> { value: "TIME", default: "60s", changes: Reload, short_help: false }

    /// How long a response may stream in all; beyond: broken off
    stream_timeout: Option<OrOff<Time>> { value: "TIME", default: "off", changes: Reload, short_help: false }

    /// Size of a request body; beyond: 413
    max_body: Option<Size> { value: "SIZE", default: "64M", changes: Reload }

    /// Size of a request's FastCGI parameters; beyond: 431
    max_params: Option<Size> { value: "SIZE", default: "64K", changes: Reload }

    /// Connections at a time; beyond: not accepted
    max_connections: Option<Positive> { value: "N", default: "4096", changes: Restart }

    /// Memory for all clients' requests and answers together; beyond: 503
    buffer_memory: Option<Size> { value: "SIZE", derived: "an eighth of the memory", changes: Reload }

    /// Where bodies over 64K are kept
    spool_dir: Option<PathBuf> { value: "DIR", derived: "$TMPDIR, /var/tmp or /tmp", changes: Restart }

    /// Size of all kept bodies and answers together; beyond: 503
    max_spool: Option<Size> { value: "SIZE", default: "1G", changes: Restart }

    /// The proxy's parameter with the path of the file that has the body
    body_file_param: Option<OrOff<BodyFileParam>> { value: "PARAM", default: "off", changes: Reload, short_help: false }

    /// The proxy's directory with those files
    body_file_dir: Option<PathBuf> { value: "DIR", changes: Reload, short_help: false }

    /// How much of a slow client's answer is kept so that its worker is free; or off
    spool_response: Option<OrOff<Size>> { value: "SIZE", default: "64M", changes: Reload }

    /// How the proxy is told to send a file itself
    sendfile: Option<Sendfile> { value: "HEADER", default: "off", changes: Restart, short_help: false }

    /// Files under DIR are under PREFIX for the proxy; repeatable
    sendfile_map: Vec<OrOff<SendfileMap>> { value: "DIR=PREFIX", changes: Restart, short_help: false }

    /// Headers with orders for the proxy that the application may send: X-Accel-*, X-Sendfile*, X-LIGHTTPD-*, …
    proxy_headers: Vec<OrOff<ProxyHeader>> { value: "NAME", derived: "none", changes: Restart, short_help: false }

    /// How long a stop or reload waits for running requests
    grace: Option<Time> { value: "TIME", default: "30s", changes: Reload }

    /// How long requests are still served after TERM, while the health says 503
    drain_delay: Option<OrOff<Time>> { value: "TIME", default: "off", changes: Reload, short_help: false }

    /// End when nobody was connected for so long; for socket activation
    exit_idle_time: Option<OrOff<Time>> { value: "TIME", default: "off", changes: Restart, short_help: false }

    /// Control socket: unix:PATH or off
    control: Option<Control> { value: "ADDR", derived: "the first Unix socket's path and .ctl", changes: Restart }

    /// Path at which the server itself answers with its status
    status_path: Option<OrOff<UrlPath>> { value: "PATH", default: "off", changes: Reload }

    /// Path at which the server itself answers with its health: 200 or 503
    health_path: Option<OrOff<UrlPath>> { value: "PATH", default: "off", changes: Reload }

    /// Tell clients in Server-Timing how long a request waited and ran
    server_timing: Option<Switch> { value: "WHETHER", default: "off", changes: Reload, short_help: false }

    /// File with a line for each request; - for standard output
    access_log: Option<OrOff<AccessLog>> { value: "FILE", default: "off", changes: Restart }

    /// How much of the query the access log has
    access_log_query: Option<AccessLogQuery> { value: "WHAT", default: "on", changes: Restart, short_help: false }

    /// File of the log; - for standard error
    log: Option<LogTarget> { value: "FILE", default: "-", changes: Restart }

    /// Load the application before the fork
    preload: Option<Preload> { value: "WHEN", default: "auto", changes: Reload }

    /// Whether processes of the same user can trace gateway and zygote, and crashes leave a core
    dumpable: Option<Switch> { value: "WHETHER", default: "off", changes: Restart, short_help: false }

    /// Format of the log and the access log
    log_format: Option<log::Format> { value: "FORMAT", default: "text", changes: Restart }

    /// Least level that is logged
    log_level: Option<log::Level> { value: "LEVEL", default: "info", changes: Restart }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::config::samples::{Flags, decided, file};
    use crate::config::{Config, Setting};

    /// The settings that can be off, by key: a value other than that, and other settings that the value needs.
    const CAN_BE_OFF: &[(&str, &str, &str)] = &[
        ("socket-owner", "0:0", ""),
        ("request-timeout", "5s", ""),
        ("slow-log", "5s", ""),
        ("start-timeout", "5s", ""),
        ("max-requests", "5", ""),
        ("max-requests-jitter", "5", ""),
        ("max-memory", "5M", ""),
        ("max-age", "5s", ""),
        ("memory-limit", "5M", ""),
        ("stream-timeout", "5s", ""),
        ("body-file-param", "A", "body-file-dir = '/tmp'"),
        ("spool-response", "5M", ""),
        ("sendfile", "x-sendfile", "sendfile-map = '/a=/b'"),
        ("sendfile-map", "/a=/b", "sendfile = 'x-sendfile'"),
        ("proxy-headers", "X-Sendfile", ""),
        ("exit-idle-time", "5s", "listen = 'fd:0'"),
        ("control", "unix:/a", ""),
        ("status-path", "/a", ""),
        ("health-path", "/a", ""),
        ("drain-delay", "5s", ""),
        ("request-start", "A", ""),
        ("queue-priority", "A", ""),
        ("server-timing", "on", ""),
        ("access-log", "/a", ""),
        ("access-log-query", "redact", ""),
        ("preload", "on", ""),
        ("dumpable", "on", ""),
    ];

    #[test]
    fn a_row_has_the_names_that_clap_and_the_file_take_and_a_default_that_can_be_read() {
        let command = Flags::command();
        let arguments: Vec<_> =
            command.get_arguments().filter(|argument| argument.get_id() != "help").collect();
        assert_eq!(arguments.len(), SETTINGS.len());
        for (argument, Setting { key, variable, value, default, .. }) in arguments.into_iter().zip(SETTINGS) {
            assert_eq!(argument.get_long().unwrap_or("app"), *key);
            assert_eq!(argument.get_env().unwrap(), *variable);
            assert_eq!(variable.strip_prefix("NIBIRU_").unwrap(), key.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_value_names().unwrap()[0], *value);
            let help = argument.get_help().unwrap().to_string();
            assert_eq!(help.ends_with(']'), default.is_some(), "{help}");
            assert!(default.is_none_or(|default| help.ends_with(&format!(" [{default}]"))), "{help}");
            assert!(!file(&format!("{key} = {{}}")).unwrap_err().contains("unknown key"));
        }
        // Reads each fixed default.
        Options::default().defaulted();
    }

    #[test]
    fn every_setting_that_can_be_off_has_that_value_and_a_flag_undoes_the_file() {
        for Setting { key, can_be_off, .. } in SETTINGS.iter().filter(|setting| setting.key != "app") {
            let flag = format!("--{key}");
            if !can_be_off {
                assert!(decided(&[&flag, "off"], "").is_err(), "{key}");
                continue;
            }
            let (_, value, needs) = CAN_BE_OFF.iter().find(|(known, ..)| known == key).expect(key);
            let on = format!("{needs}\n{key} = '{value}'");
            let off = decided(&[&flag, "off"], needs).unwrap();
            assert_eq!(decided(&[&flag, "off"], &on), Ok(off.clone()), "the flag undoes the file");
            assert_eq!(decided(&[], &format!("{needs}\n{key} = 'off'")), Ok(off.clone()), "in the file");
            assert_ne!(decided(&[], &on), Ok(off), "{key} = {value} is not off");
        }
    }

    #[test]
    fn no_value_of_any_option_is_a_panic_and_a_bad_one_names_the_option() {
        let odd = [
            "",
            " ",
            "0",
            "1",
            "-1",
            "+1",
            "1.5",
            "1e9",
            "x",
            "é",
            "\u{0}",
            "off",
            "on",
            "0s",
            "1ns",
            "1ms",
            "30",
            "3650d",
            "3651d",
            "18446744073709551615s",
            "18446744073709551615",
            "99999999999999999999",
            "1K",
            "0K",
            "1048576G",
            "1048577G",
            "99999999999999999999G",
            "0777",
            "000",
            "0-0",
            "1-0",
            "0-1",
            ":",
            "::",
            "/",
            "//",
            "..",
            "=",
            "/=",
            "unix:",
            "tcp:",
            "tcp::",
            "fd:",
            "fd:x",
            "fd:4294967296",
            "systemd",
            "unix:x",
        ];
        for Setting { key, .. } in SETTINGS.iter().filter(|setting| setting.key != "app") {
            for value in odd {
                let flags = Flags::try_parse_from(["serve", "a", &format!("--{key}={value}")]);
                let text = toml::Value::String(value.to_owned());
                let in_file = decided(&[], &format!("{key} = {text}"));
                let given = match flags {
                    Err(error) => Err(error.to_string()),
                    Ok(flags) => Config::new(flags.options)
                        .map(|config| format!("{config:?}"))
                        .map_err(|e| e.to_string()),
                };
                for cause in [&given, &in_file].into_iter().filter_map(|given| given.as_ref().err()) {
                    assert!(cause.contains(key), "{key} = {value:?}: {cause}");
                }
                // Of a list, a flag's value is several where it has a comma, and clap's own types refuse an empty path.
                assert_eq!(given.is_ok(), in_file.is_ok(), "{key} = {value:?}: {given:?} {in_file:?}");
            }
            for value in ["true", "1.5", "{}", "[[]]", "[1]", "2026-01-01", "-1"] {
                let cause = decided(&[], &format!("{key} = {value}")).unwrap_err();
                assert!(cause.starts_with("nibiru.toml:2: ") && cause.contains("expected "), "{cause}");
            }
        }
    }

    #[test]
    fn a_reload_keeps_the_settings_that_take_a_restart_and_takes_the_others() {
        let config = |text: &str| Config::new(file(&format!("app = 'a'\n{text}")).unwrap()).unwrap();
        let old = config("workers = 2\nlisten = 'tcp:127.0.0.1:1'\nlog-level = 'warn'");
        let mut new =
            config("workers = 3\nlisten = 'unix:a'\nallow-from = '::1'\nlog-level = 'warn'\ngrace = '1s'");
        assert_eq!(new.keep_what_needs_a_restart(&old), ["listen", "allow-from", "control"]);
        assert_eq!(
            (&new.listen, &new.allow_from, &new.control),
            (&old.listen, &old.allow_from, &old.control)
        );
        assert_eq!((new.workers, new.grace), (Workers::fixed(3), Duration::from_secs(1)));
        assert_eq!(new.keep_what_needs_a_restart(&old), [""; 0]);
    }

    #[test]
    fn a_file_sets_what_flags_leave_open() {
        let file = file("app = 'a:b'\nworkers = 3\nmax-body = '2M'\nlisten = 'tcp:[::1]:9000'").unwrap();
        let flags = Options { workers: Some(Workers::fixed(5)), ..Options::default() };
        let config = Config::new(flags.or(file)).unwrap();
        assert_eq!((config.app.as_str(), config.workers.max, config.max_body), ("a:b", 5, 2 << 20));
        assert_eq!(config.listen, [Listen::Tcp("[::1]:9000".to_owned())]);
        assert_eq!(config.queue_timeout, Duration::from_secs(10));
    }
}
