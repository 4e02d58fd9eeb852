//! Faults of a proxy's configuration that its parameters show. Each is logged once, because every request repeats it. The
//! caller writes the line.

use crate::proto::body_file::{self, BodyFileError};

/// Most names that are remembered, and so logged. A configuration repeats a handful; a peer on a TCP socket could invent names
/// without end.
const MAX_REPEATED: usize = 32;

/// Longest name that is remembered, in bytes. Proxies' names are shorter than 40.
const MAX_NAME: usize = 128;

/// The faults that have been logged.
#[derive(Debug, Default)]
pub(crate) struct LoggedProxyFaults {
    repeated: Vec<Vec<u8>>,
    missing_path_info: bool,
    /// By [`BodyFileError::kind`].
    body_files: [bool; body_file::KINDS],
}

impl LoggedProxyFaults {
    /// Adds a repeated name. Returns whether it is new, and so to be logged.
    pub(crate) fn add_repeated(&mut self, name: &[u8]) -> bool {
        let new = self.repeated.len() < MAX_REPEATED
            && name.len() <= MAX_NAME
            && !self.repeated.iter().any(|known| known == name);
        if new {
            self.repeated.push(name.to_vec());
        }
        new
    }

    /// Adds a file that is not taken as a body. Returns whether its kind of error is new, and so to be logged.
    pub(crate) fn add_body_file(&mut self, error: &BodyFileError) -> bool {
        !std::mem::replace(&mut self.body_files[error.kind()], true)
    }

    /// Adds a missing PATH_INFO. Returns whether it is new, and so to be logged.
    pub(crate) fn add_missing_path_info(&mut self) -> bool {
        !std::mem::replace(&mut self.missing_path_info, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_logged_once_and_a_flood_of_names_ends() {
        let mut logged = LoggedProxyFaults::default();
        assert_eq!(
            ["A", "B", "A", "B", "A"].map(|name| logged.add_repeated(name.as_bytes())),
            [true, true, false, false, false]
        );
        assert!(!logged.add_repeated(&[b'x'; MAX_NAME + 1]));
        let more = (0..1000).filter(|n| logged.add_repeated(format!("N{n}").as_bytes())).count();
        assert_eq!(more, MAX_REPEATED - 2);
        assert_eq!((logged.add_missing_path_info(), logged.add_missing_path_info()), (true, false));
        let errors = [BodyFileError::Missing, BodyFileError::Owner(1), BodyFileError::Owner(2)];
        assert_eq!(errors.map(|error| logged.add_body_file(&error)), [true, true, false]);
    }
}
