//! The results of commands that change a running server, as text for people.

use std::fmt::Write as _;

use serde_json::Value;

/// The result of `nibiru reload`: the generation that serves, and the settings that need a restart.
pub fn reloaded(answer: &Value) -> String {
    let mut text = match answer["generation"].as_u64() {
        Some(generation) => format!("generation {generation} serves\n"),
        None => "reloaded\n".to_owned(),
    };
    let fixed = answer["needs_restart"].as_array().map_or(&[][..], Vec::as_slice);
    for name in fixed.iter().filter_map(Value::as_str) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name} cannot change while running: restart");
    }
    text
}

/// The result of `nibiru scale`: the new number of workers, or its bounds.
pub fn scaled(answer: &Value) -> String {
    match answer["workers"].as_str() {
        Some("1") => "1 worker\n".to_owned(),
        Some(workers) => format!("{workers} workers\n"),
        None => "scaled\n".to_owned(),
    }
}

/// The result of `nibiru stop`, once the server has ended.
pub fn stopped() -> String {
    "stopped\n".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_reload_says_which_code_serves_and_what_needs_a_restart() {
        let answer = json!({ "ok": true, "generation": 2, "needs_restart": ["listen", "control"] });
        assert_eq!(
            reloaded(&answer),
            "generation 2 serves\n\
             listen cannot change while running: restart\n\
             control cannot change while running: restart\n"
        );
        assert_eq!(reloaded(&json!({ "ok": true, "generation": 3 })), "generation 3 serves\n");
    }

    #[test]
    fn workers_are_counted_as_people_do() {
        for (workers, text) in [("1", "1 worker\n"), ("4", "4 workers\n"), ("2-8", "2-8 workers\n")] {
            assert_eq!(scaled(&json!({ "ok": true, "workers": workers })), text);
        }
    }

    #[test]
    fn a_server_of_another_version_that_says_less_is_understood() {
        assert_eq!(
            (reloaded(&json!({})), scaled(&json!({}))),
            ("reloaded\n".to_owned(), "scaled\n".to_owned())
        );
    }
}
