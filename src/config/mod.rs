//! Flags, environment and `nibiru.toml` become one checked [`Config`].
//!
//! [`Options`] is the one list of settings: clap reads it from flags and `NIBIRU_…` variables, serde from
//! the file. Flags beat the environment beats the file beats the defaults, which stand in [`Config::new`].

mod error;
mod file;
mod options;
mod reload;
mod settings;
mod values;

pub use error::ConfigError;
pub use file::FILE;
pub use options::Options;
pub use settings::{Config, control};
pub use values::{
    AccessLog, Control, Listen, MAX_WORKERS, Preload, ProxyHeader, Sendfile, SendfileMap, Size, SocketMode,
    SocketOwner, Time, Timeout, UrlPath, Workers, proxy_headers,
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn file(text: &str) -> Result<Options, String> {
        toml::from_str(text).map_err(|error| error.to_string())
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
    fn sizes_and_addresses() {
        for (text, bytes) in [("0", 0), ("65536", 65536), ("64K", 65536), ("1g", 1 << 30)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "K", "-1", "1.5M", "99999999999G"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert_eq!("unix:/run/a:b.sock".parse(), Ok(Listen::Unix("/run/a:b.sock".into())));
        for text in ["", "unix:", "/run/a.sock", "tcp:9000", "fd:x", "http:80"] {
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
        assert!(file("request-timeout = '0s'").unwrap_err().contains("or off"));
        assert!(problem("health-path = '/x'\nstatus-path = '/x'").starts_with("health-path: the same as"));
        assert!(problem("sendfile-map = '/srv=/files'").starts_with("sendfile-map: only with sendfile"));
        assert!(problem("sendfile = 'x-accel-redirect'").contains("needs sendfile-map"));
        assert!(file("sendfile-map = '/srv'").unwrap_err().contains("DIR=PREFIX"));
        assert!(file("proxy-headers = ['Set-Cookie']").unwrap_err().contains("X-Accel-Redirect"));
        let off = Config::new(file("app = 'a'\nrequest-timeout = 'off'").unwrap()).unwrap();
        assert_eq!(off.request_timeout, None);
    }

    #[test]
    fn limits_that_the_processes_could_not_keep_are_refused() {
        let options =
            Options { app: Some("a".into()), max_params: Some(Size(1 << 20)), ..Options::default() };
        assert_eq!(Config::new(options).unwrap_err().to_string(), "max-params: at most 120K");
        assert!(Config::new(Options::default()).unwrap_err().to_string().starts_with("no application"));
    }
}
