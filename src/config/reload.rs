//! Which settings a running server can change.

use super::settings::Config;

impl Config {
    /// Takes from `old` what a running server cannot change; gives the names of those settings that would differ.
    pub fn keep_what_needs_a_restart(&mut self, old: &Self) -> Vec<&'static str> {
        let mut differ = Vec::new();
        macro_rules! keep {
            ($($field:ident: $name:literal),+) => {
                $(if self.$field != old.$field {
                    self.$field.clone_from(&old.$field);
                    differ.push($name);
                })+
            };
        }
        keep!(
            listen: "listen",
            peers: "allow-from",
            socket_mode: "socket-mode",
            socket_owner: "socket-owner",
            max_connections: "max-connections",
            spool_dir: "spool-dir",
            max_spool: "max-spool",
            sendfile: "sendfile",
            sendfile_map: "sendfile-map",
            proxy_headers: "proxy-headers",
            exit_idle_time: "exit-idle-time",
            control: "control",
            dumpable: "dumpable",
            access_log: "access-log",
            access_log_query: "access-log-query",
            log: "log",
            log_format: "log-format",
            log_level: "log-level"
        );
        differ
    }
}
