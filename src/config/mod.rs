//! Flags, environment and `nibiru.toml` become one checked [`Config`].
//!
//! [`Options`] is the one list of settings: clap reads it from flags and `NIBIRU_…` variables, serde from
//! the file. Flags beat the environment beats the file beats the defaults, which stand in [`Config::new`].

mod addresses;
mod error;
mod file;
mod limits;
mod options;
mod peers;
mod quantity;
mod queue;
mod reload;
mod settings;
mod source;
mod spool_directory;
mod start_directory;
mod suggest;
mod value;
mod values;

pub use error::ConfigError;
pub use file::FILE;
pub use options::Options;
pub use peers::{Network, Peers};
pub use quantity::{Count, Positive, Size, Time};
pub use queue::{ParamName, PriorityParam, QueueOrder};
pub use settings::{Config, control, control_beside};
pub use source::{Origin, Sources};
pub use start_directory::StartDirectory;
pub use value::{OrOff, Value};
pub use values::{
    AccessLog, AccessLogQuery, Control, Listen, LogTarget, MAX_WORKERS, Preload, ProxyHeader, Sendfile,
    SendfileMap, SocketMode, SocketOwner, Switch, UrlPath, Workers, proxy_headers,
};

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser as _};
    use std::time::Duration;

    /// The options alone, as `serve` takes them.
    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        options: Options,
    }

    /// By key: the options that can be off, with a value other than that and what else the value needs.
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

    /// Those that cannot, since the server needs a value.
    const NEVER_OFF: &[&str] = &[
        "listen",
        // Would read as "everybody".
        "allow-from",
        "socket-mode",
        "root",
        "workers",
        "idle-timeout",
        "kill-after",
        "queue",
        "queue-timeout",
        "queue-order",
        "queue-target",
        "queue-interval",
        "header-timeout",
        "body-timeout",
        "send-timeout",
        "max-body",
        "max-params",
        "max-connections",
        "buffer-memory",
        "spool-dir",
        "max-spool",
        "grace",
        "log",
        "log-format",
        "log-level",
    ];

    fn keys() -> Vec<String> {
        let command = Flags::command();
        command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned)).collect()
    }

    /// Flags before a file, decided, as text.
    fn decided(flags: &[&str], text: &str) -> Result<String, String> {
        let flags = Flags::try_parse_from([&["serve"], flags].concat()).map_err(|error| error.to_string())?;
        let file = file(&format!("app = 'a'\n{text}"))?;
        let config = Config::new(flags.options.or(file)).map_err(|error| error.to_string())?;
        Ok(format!("{config:?}"))
    }

    #[test]
    fn every_option_that_can_be_off_has_that_value_and_a_flag_undoes_the_file() {
        for key in keys().iter().filter(|key| *key != "help") {
            let Some((_, value, needs)) = CAN_BE_OFF.iter().find(|(known, ..)| known == key) else {
                assert!(NEVER_OFF.contains(&key.as_str()), "can --{key} be off? say so in this test");
                assert!(decided(&[&format!("--{key}"), "off"], "").is_err(), "{key}");
                continue;
            };
            let (flag, on) = (format!("--{key}"), format!("{needs}\n{key} = '{value}'"));
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
        for key in keys().iter().filter(|key| *key != "help") {
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
                    assert!(cause.contains(key.as_str()), "{key} = {value:?}: {cause}");
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
    fn a_message_names_line_key_and_value_of_the_file() {
        for (text, message) in [
            (
                "\nmax-requests = 'x' # so",
                "nibiru.toml:2: max-requests = 'x': expected a number above zero, or off",
            ),
            (
                "access-log = -1",
                "nibiru.toml:1: access-log = -1: expected the name of a file, or - for standard output, or off, in quotes",
            ),
            (
                "listen = ['unix:a',\n'b']",
                "nibiru.toml:1: listen = ['unix:a', …: \"b\": expected unix:PATH, tcp:HOST:PORT, fd:N or systemd",
            ),
            (
                "socket-mode = 0o660",
                "nibiru.toml:1: socket-mode = 0o660: expected an octal mode such as 0660, in quotes",
            ),
            ("preload = 'x'", "nibiru.toml:1: preload = 'x': expected one of \"auto\", \"on\", \"off\""),
            ("root = 1", "nibiru.toml:1: root = 1: expected a name or a path, in quotes"),
            ("[server]", "nibiru.toml:1: server: unknown key"),
            ("\n\nworkers =", "nibiru.toml:3: string values must be quoted, expected literal string"),
        ] {
            assert_eq!(file(text).unwrap_err(), message);
        }
    }

    fn file(text: &str) -> Result<Options, String> {
        let read = file::read("nibiru.toml".as_ref(), text);
        read.map(|(options, _)| options).map_err(|error| error.to_string())
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

    #[test]
    fn a_misspelt_key_and_a_bad_value_are_named() {
        assert!(file("wokers = 3").unwrap_err().contains("wokers"));
        assert!(file("queue-timeout = '10'").unwrap_err().contains("30s"));
        assert!(file("workers = 0").is_err());
        assert!(file("socket-mode = '0666'").unwrap_err().contains("world-writable"));
    }

    #[test]
    fn addresses() {
        assert_eq!("unix:/run/a:b.sock".parse(), Ok(Listen::Unix("/run/a:b.sock".into())));
        assert_eq!("fd:2147483647".parse(), Ok(Listen::Fd(2_147_483_647)));
        for text in
            ["", "unix:", "/run/a.sock", "tcp:9000", "fd:", "fd:x", "fd:-1", "fd:2147483648", "http:80"]
        {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }

    #[test]
    fn workers_are_a_number_or_a_range() {
        for (text, min, max) in [("1", 1, 1), ("0-1", 0, 1), ("2-8", 2, 8), ("3-3", 3, 3)] {
            assert_eq!(text.parse(), Ok(Workers { min, max }), "{text}");
        }
        for text in ["", "0", "0-0", "3-2", "-2", "2-", "1-2-3", "1-10001", "a"] {
            assert!(text.parse::<Workers>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_control_socket_is_beside_the_first_unix_socket() {
        let config = |text: &str| Config::new(file(&format!("app = 'a'\n{text}")).unwrap()).unwrap().control;
        assert_eq!(config(""), Some("nibiru.sock.ctl".into()));
        assert_eq!(config("listen = ['tcp:[::1]:9000', 'unix:/run/a.sock']"), Some("/run/a.sock.ctl".into()));
        assert_eq!(config("listen = 'tcp:[::1]:9000'"), None);
        assert_eq!(config("control = 'off'"), None);
        assert_eq!(config("control = 'unix:/run/b'\nlisten = 'fd:0'"), Some("/run/b".into()));
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        let problem =
            |text: &str| Config::new(file(&format!("app = 'a'\n{text}")).unwrap()).unwrap_err().to_string();
        assert!(problem("exit-idle-time = '1m'").starts_with("exit-idle-time: only with"));
        assert!(problem("health-path = '/x'\nstatus-path = '/x'").starts_with("health-path: the same as"));
        assert!(problem("request-timeout = '0s'").contains("would end every request with 504"));
        assert!(problem("sendfile-map = '/srv=/files'").starts_with("sendfile-map: only with sendfile"));
        assert!(problem("sendfile = 'x-accel-redirect'").contains("needs sendfile-map"));
        assert!(file("sendfile-map = '/srv'").unwrap_err().contains("DIR=PREFIX"));
        for name in ["Set-Cookie", "X-Accel-Buffering", "X-Sendfile: /etc/passwd"] {
            let problem = file(&format!("proxy-headers = ['{name}']")).unwrap_err();
            assert!(problem.contains("gives the proxy orders: X-Accel-*, X-Sendfile*"), "{problem}");
        }
        let off = Config::new(file("app = 'a'\nrequest-timeout = 'off'").unwrap()).unwrap();
        assert_eq!(off.request_timeout, None);
    }

    #[test]
    fn a_tcp_address_that_others_reach_needs_a_name_for_them() {
        let config = |text: &str| Config::new(file(&format!("app = 'a'\n{text}")).unwrap());
        for address in ["tcp:0.0.0.0:9000", "tcp:[::]:9000", "tcp:192.0.2.1:9000"] {
            let problem = config(&format!("listen = '{address}'")).unwrap_err().to_string();
            assert!(problem.starts_with(&format!("listen: {address}: whoever can connect")), "{problem}");
            config(&format!("listen = '{address}'\nallow-from = ['10.0.0.0/8', '::1']")).unwrap();
        }
        // Names are looked up when they are listened on.
        config("listen = ['tcp:127.0.0.1:9000', 'tcp:[::1]:9000', 'tcp:localhost:9000']").unwrap();
        assert!(file("allow-from = '10.0.0.7/8'").unwrap_err().contains("bits beyond its prefix"));
        assert!(file("allow-from = []").unwrap_err().contains("the list is empty"));
    }

    #[test]
    fn limits_that_the_processes_could_not_keep_are_refused() {
        let options =
            Options { app: Some("a".into()), max_params: Some(Size(1 << 20)), ..Options::default() };
        assert_eq!(Config::new(options).unwrap_err().to_string(), "max-params: at most 120K");
        assert!(Config::new(Options::default()).unwrap_err().to_string().starts_with("no application"));
    }
}
