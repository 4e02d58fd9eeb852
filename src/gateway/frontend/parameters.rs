//! Faults of a proxy's configuration that show in its parameters. Each is logged once, because every request repeats it. The
//! caller writes the line.

/// Most names that are remembered, and so logged. A configuration repeats a handful; a peer on a TCP socket could invent names
/// without end.
const MAX_REPEATED: usize = 32;

/// Longest name that is remembered, in bytes. Proxies' names are shorter than 40.
const MAX_NAME: usize = 128;

/// The faults that are in the log already.
#[derive(Debug, Default)]
pub(crate) struct Told {
    repeated: Vec<Vec<u8>>,
    missing_path_info: bool,
}

impl Told {
    /// Whether to log that a name came more than once.
    pub(crate) fn repeated(&mut self, name: &[u8]) -> bool {
        let new = self.repeated.len() < MAX_REPEATED
            && name.len() <= MAX_NAME
            && !self.repeated.iter().any(|known| known == name);
        if new {
            self.repeated.push(name.to_vec());
        }
        new
    }

    /// Whether to log that PATH_INFO is missing.
    pub(crate) fn missing_path_info(&mut self) -> bool {
        !std::mem::replace(&mut self.missing_path_info, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_logged_once_and_a_flood_of_names_ends() {
        let mut told = Told::default();
        assert_eq!(
            ["A", "B", "A", "B", "A"].map(|name| told.repeated(name.as_bytes())),
            [true, true, false, false, false]
        );
        assert!(!told.repeated(&[b'x'; MAX_NAME + 1]));
        let more = (0..1000).filter(|n| told.repeated(format!("N{n}").as_bytes())).count();
        assert_eq!(more, MAX_REPEATED - 2);
        assert_eq!((told.missing_path_info(), told.missing_path_info()), (true, false));
    }
}
