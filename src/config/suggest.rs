//! The known key that an unknown one was probably meant for, as the message suggests it.

/// The least likeness of a suggested key, from 0 to 1. One letter more, less or different in a short key passes.
const ALIKE: f64 = 0.85;

/// The key among `known` that is most like `written`; `None` where no key is like it.
pub(super) fn alike<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.replace('_', "-").to_lowercase();
    let ranked = known.map(|key| (strsim::jaro_winkler(&written, key), key));
    // The measure favours a common beginning, but a word that lacks half of a key was meant for another one.
    ranked
        .filter(|(alike, key)| *alike >= ALIKE && written.len() * 2 > key.len())
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;

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
            let known = SETTINGS.iter().map(|setting| setting.key);
            assert_eq!(alike(written, known), meant, "{written}");
        }
    }
}
