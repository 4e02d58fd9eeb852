//! The control socket's address, and its default beside the first Unix socket.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::listen::Listen;
use super::value::{Value, expected};

/// The address of the control socket, or `off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// The Unix socket at this path.
    Unix(PathBuf),
    /// No control socket.
    Off,
}

impl FromStr for Control {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(PathBuf::from(path))),
            None if text == "off" => Ok(Self::Off),
            _ => Err(expected::<Self>()),
        }
    }
}

impl Value for Control {
    const EXPECTED: &'static str = "unix:PATH or off";
    const CAN_BE_OFF: bool = true;
}

/// The path of the control socket: the one given, or else beside the first Unix socket. `None` for no control socket.
pub fn control(given: Option<Control>, listen: &[Listen]) -> Option<PathBuf> {
    match given {
        Some(Control::Unix(path)) => Some(path),
        Some(Control::Off) => None,
        None => listen.iter().find_map(|address| match address {
            Listen::Unix(path) => Some(control_beside(path)),
            _ => None,
        }),
    }
}

/// The default path of the control socket of a server that listens at `path`.
pub fn control_beside(path: &Path) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(".ctl");
    path.into()
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::config::samples::file;

    #[test]
    fn the_control_socket_is_beside_the_first_unix_socket() {
        let config = |text: &str| Config::new(file(&format!("app = 'a'\n{text}")).unwrap()).unwrap().control;
        assert_eq!(config(""), Some("nibiru.sock.ctl".into()));
        assert_eq!(config("listen = ['tcp:[::1]:9000', 'unix:/run/a.sock']"), Some("/run/a.sock.ctl".into()));
        assert_eq!(config("listen = 'tcp:[::1]:9000'"), None);
        assert_eq!(config("control = 'off'"), None);
        assert_eq!(config("control = 'unix:/run/b'\nlisten = 'fd:0'"), Some("/run/b".into()));
    }
}
