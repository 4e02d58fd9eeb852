//! The known key that an unknown one is most like, for the message.

use clap::Args as _;

use super::options::Options;

/// How alike two names must be to be offered, from 0 to 1: one letter more, less or different in a short name is.
const ALIKE: f64 = 0.85;

/// The known key that is most like `key`; nothing where none is like it.
pub(super) fn key(key: &str) -> Option<String> {
    let written = key.replace('_', "-").to_lowercase();
    let options = Options::augment_args(clap::Command::new(""));
    let known = options.get_arguments().map(|argument| argument.get_id().as_str().replace('_', "-"));
    let ranked = known.map(|name| (strsim::jaro_winkler(&written, &name), name));
    // A common beginning counts for much, but a word that lacks half of a name was meant for another name.
    ranked
        .filter(|(alike, name)| *alike >= ALIKE && written.len() * 2 > name.len())
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_key_and_another_word_finds_none() {
        for (written, meant) in [
            ("wokers", Some("workers")),
            ("worker", Some("workers")),
            ("max_body", Some("max-body")),
            ("MaxBody", Some("max-body")),
            ("lisen", Some("listen")),
            ("request-timout", Some("request-timeout")),
            ("acces-log", Some("access-log")),
            ("max-bodi", Some("max-body")),
            ("ap", Some("app")),
            ("port", None),
            ("server", None),
            ("colour", None),
        ] {
            assert_eq!(key(written).as_deref(), meant, "{written}");
        }
    }
}
