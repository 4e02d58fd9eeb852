//! Addresses that lead to the same socket under two spellings, which the settings refuse.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::values::Listen;

/// Refuses two addresses of one socket, and a control socket at the path of a listening one.
pub(super) fn check(listen: &[Listen], control: Option<&Path>) -> Result<(), ConfigError> {
    for (index, address) in listen.iter().enumerate() {
        if let Some(before) = listen[..index].iter().find(|before| is_same(before, address)) {
            let cause = match before == address {
                true => format!("{address} stands there twice"),
                false => format!("{address} is the same socket as {before}"),
            };
            return Err(ConfigError::new("listen", cause));
        }
    }
    let same = |path: &Path| {
        listen.iter().find(|address| matches!(address, Listen::Unix(of) if place(of) == place(path)))
    };
    match control.and_then(same) {
        Some(address) => {
            let cause =
                format!("the server listens for FastCGI at {address}; the control socket needs another path");
            Err(ConfigError::new("control", cause))
        }
        None => Ok(()),
    }
}

/// Whether both addresses are the same socket's.
fn is_same(one: &Listen, other: &Listen) -> bool {
    match (one, other) {
        (Listen::Unix(one), Listen::Unix(other)) => place(one) == place(other),
        (Listen::Tcp(one), Listen::Tcp(other)) => {
            match (one.parse::<SocketAddr>(), other.parse::<SocketAddr>()) {
                // Port 0 stands for any free port, another one for each socket.
                (Ok(one), Ok(other)) => one == other && one.port() != 0,
                // A host name is not resolved before it is listened on.
                _ => one.eq_ignore_ascii_case(other) && !one.ends_with(":0"),
            }
        }
        (one, other) => one == other,
    }
}

/// The absolute path with the links and the steps (`..`) of its directory resolved, where the directory exists.
fn place(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (whole.parent().map(Path::canonicalize), whole.file_name()) {
        (Some(Ok(directory)), Some(name)) => directory.join(name),
        _ => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(listen: &[&str], control: Option<&str>) -> Option<String> {
        let listen: Vec<Listen> = listen.iter().map(|address| address.parse().unwrap()).collect();
        check(&listen, control.map(Path::new)).err().map(|error| error.to_string())
    }

    #[test]
    fn an_address_that_stands_there_twice_is_named_whatever_its_spelling() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(directory.path(), directory.path().join("link")).unwrap();
        let path = |name: &str| format!("unix:{}/{name}", directory.path().display());
        assert_eq!(
            refused(&["unix:./a.sock", "tcp:[::1]:9000", "unix:a.sock"], None).unwrap(),
            "listen: unix:a.sock is the same socket as unix:./a.sock"
        );
        assert_eq!(refused(&["systemd", "systemd"], None).unwrap(), "listen: systemd stands there twice");
        for (one, other) in [
            (path("a"), path("link/a")),
            (path("a"), path("./a")),
            ("unix:/nonexistent/a".into(), "unix:/nonexistent//a".into()),
            ("fd:0".into(), "fd:0".into()),
            ("tcp:127.0.0.1:9000".into(), "tcp:127.0.0.1:9000".into()),
            ("tcp:[::1]:9000".into(), "tcp:[0:0:0:0:0:0:0:1]:9000".into()),
            ("tcp:localhost:9000".into(), "tcp:LOCALHOST:9000".into()),
        ] {
            assert!(refused(&[&one, &other], None).is_some(), "{one} {other}");
        }
        for (one, other) in [
            ("unix:a", "unix:b"),
            ("tcp:127.0.0.1:0", "tcp:127.0.0.1:0"),
            ("tcp:localhost:0", "tcp:localhost:0"),
            ("tcp:127.0.0.1:9000", "tcp:127.0.0.2:9000"),
            ("fd:0", "fd:3"),
        ] {
            assert_eq!(refused(&[one, other], None), None, "{one} {other}");
        }
    }

    #[test]
    fn the_control_socket_is_none_of_them() {
        assert_eq!(
            refused(&["unix:a.sock"], Some("./a.sock")).unwrap(),
            "control: the server listens for FastCGI at unix:a.sock; the control socket needs another path"
        );
        assert_eq!(refused(&["unix:a.sock"], Some("a.sock.ctl")), None);
        // The second address is the default path of the control socket.
        assert!(refused(&["unix:a.sock", "unix:a.sock.ctl"], Some("a.sock.ctl")).is_some());
    }
}
