//! The address of a server's control socket, as people write it for a client.

use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The directory of control sockets under systemd (`deploy/systemd`): application NAME has `/run/nibiru/NAME/control.sock`.
const UNITS: &str = "/run/nibiru";
/// The file name of a control socket under systemd.
const SOCKET_OF_UNIT: &str = "control.sock";

/// The value of a client's `--control`: `unix:PATH`, a path, or the name of an application under systemd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The socket at this path.
    Unix(PathBuf),
    /// No control socket: `off`. The value is meant for the server; a client sees it where both read one environment variable.
    Off,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            _ if text.contains('/') && !text.contains(':') => Ok(Self::Unix(text.into())),
            None if text == "off" => Ok(Self::Off),
            None if !text.is_empty() && !text.starts_with('.') => Ok(Self::Unix(of_unit(text))),
            _ => Err("expected unix:PATH, or the NAME of an application that systemd runs as nibiru@NAME"
                .to_owned()),
        }
    }
}

/// The control socket of the application `name` under systemd.
fn of_unit(name: &str) -> PathBuf {
    Path::new(UNITS).join(name).join(SOCKET_OF_UNIT)
}

/// The systemd unit whose control socket is at `path`; `None` for other paths.
pub(super) fn unit_of(path: &Path) -> Option<String> {
    let name = path.strip_prefix(UNITS).ok()?.parent()?.to_str()?;
    (!name.contains('/') && of_unit(name) == path).then(|| format!("nibiru@{name}.service"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_or_the_name_of_an_application() {
        for (text, path) in [
            ("unix:/run/a.sock.ctl", "/run/a.sock.ctl"),
            ("unix:a.ctl", "a.ctl"),
            ("./a.ctl", "./a.ctl"),
            ("/run/a.ctl", "/run/a.ctl"),
            ("shop", "/run/nibiru/shop/control.sock"),
            ("shop.example.com", "/run/nibiru/shop.example.com/control.sock"),
        ] {
            assert_eq!(text.parse(), Ok(Address::Unix(path.into())), "{text}");
        }
        assert_eq!("off".parse(), Ok(Address::Off));
        for text in ["", "unix:", "tcp:127.0.0.1:9000", "..", ".ctl"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        assert_eq!(unit_of(&of_unit("shop")).as_deref(), Some("nibiru@shop.service"));
        assert_eq!(unit_of(Path::new("/run/a/control.sock")), None);
        assert_eq!(unit_of(Path::new("/run/nibiru/a/b/control.sock")), None);
    }

    #[test]
    fn the_units_have_it_there() {
        let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd/nibiru@.service");
        let unit = std::fs::read_to_string(unit).unwrap();
        let start = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
        let expected = format!("--control unix:{}", of_unit("%i").display());
        assert!(start.contains(&expected), "{start} has no {expected}");
    }
}
