//! The reference of the command line and the page about redaction, compared with the tables in the code.

use std::collections::BTreeSet;
use std::fs;

use clap::CommandFactory as _;
use nibiru::cli::Cli;
use nibiru::config::{Change, SETTINGS, Setting};

use crate::support::repository;

#[test]
fn the_reference_lists_exactly_the_flags_and_variables_of_the_command_line() {
    let text = fs::read_to_string(repository("docs/reference/cli.md")).unwrap();
    // The first cells of tables: | `--flag VALUE` | … and | `-f`, `--flag VALUE` | …
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let words = cells.flat_map(|cell| cell.split(|c: char| c == '`' || c == ',' || c.is_whitespace()));
    let documented: BTreeSet<&str> = words.filter_map(|word| word.strip_prefix("--")).collect();

    let mut flags = BTreeSet::from(["help".to_owned(), "version".to_owned()]);
    let command = Cli::command();
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        for argument in command.get_arguments() {
            flags.extend(argument.get_long().map(str::to_owned));
            if let Some(variable) = argument.get_env() {
                let variable = format!("`{}`", variable.to_str().unwrap());
                assert!(text.contains(&variable), "{variable} is not in docs/reference/cli.md");
            }
        }
    }
    let flags: BTreeSet<&str> = flags.iter().map(String::as_str).collect();
    assert_eq!(flags.difference(&documented).collect::<Vec<_>>(), Vec::<&&str>::new(), "not documented");
    assert_eq!(
        documented.difference(&flags).collect::<Vec<_>>(),
        Vec::<&&str>::new(),
        "documented, but not accepted"
    );
}

/// The rows are in the order of `SETTINGS`.
#[test]
fn the_reference_has_a_row_for_each_setting_with_its_default_variable_and_key() {
    let text = fs::read_to_string(repository("docs/reference/cli.md")).unwrap();
    let (_, table) = text.split_once("| flag | default | environment | nibiru.toml | meaning |\n").unwrap();
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| row.split(" | ").take(4).collect::<Vec<_>>().join(" | ").replace('`', "");
    let documented: Vec<String> = rows.filter(|row| !row.contains("--config FILE")).map(cells).collect();
    let known = SETTINGS.iter().map(|Setting { key, variable, value, default, .. }| {
        let flag = if *key == "app" { (*value).to_owned() } else { format!("--{key} {value}") };
        format!("| {flag} | {} | {variable} | {key}", default.unwrap_or("–"))
    });
    assert_eq!(documented, known.collect::<Vec<_>>());
}

/// The keys in the paragraph of the reference that follows `introduction`.
fn keys_after(introduction: &str) -> Vec<String> {
    let text = fs::read_to_string(repository("docs/reference/cli.md")).unwrap();
    let (_, rest) = text.split_once(introduction).expect(introduction);
    let list = rest.split_once("\n\n").unwrap().0;
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_reference_lists_exactly_the_settings_that_can_be_off() {
    let known: Vec<&str> =
        SETTINGS.iter().filter(|setting| setting.can_be_off).map(|setting| setting.key).collect();
    assert_eq!(keys_after("so that a flag can undo what the file says:\n\n"), known);
}

#[test]
fn the_reference_lists_exactly_the_settings_that_take_a_restart() {
    let restart = SETTINGS.iter().filter(|setting| setting.changes == Change::Restart);
    let known: Vec<&str> = restart.map(|setting| setting.key).collect();
    assert_eq!(keys_after("stays as it is until a restart:\n\n"), known);
}

#[test]
fn the_page_about_redaction_lists_exactly_the_redacted_names() {
    use nibiru::log::redact::{MatchScope, NAMES};

    let text = fs::read_to_string(repository("docs/how-to/status.md")).unwrap();
    for (place, row) in [
        (MatchScope::Anywhere, "| anywhere |"),
        (MatchScope::Word, "| as a word |"),
        (MatchScope::Query, "| as the whole name of a query parameter |"),
    ] {
        let cell = text.lines().find_map(|line| line.strip_prefix(row)).unwrap();
        let listed: BTreeSet<&str> = cell.split('`').skip(1).step_by(2).collect();
        let known = NAMES.iter().filter(|(_, known, _)| *known == place).map(|(name, ..)| *name).collect();
        assert_eq!(listed, known, "{row}");
    }
}
