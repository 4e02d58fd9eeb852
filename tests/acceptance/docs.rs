//! The reference of the command line names everything that the code takes, and nothing else.

use std::collections::BTreeSet;
use std::fs;

use clap::CommandFactory as _;
use nibiru::cli::Cli;

use crate::support::repository;

#[test]
fn the_reference_lists_exactly_the_flags_and_variables_that_exist() {
    let text = fs::read_to_string(repository("docs/reference/cli.md")).unwrap();
    // First cells of tables: | `--flag VALUE` | … and | `-f`, `--flag VALUE` | …
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
        "documented, but gone"
    );
}

#[test]
fn every_key_of_the_file_is_a_flag_with_the_same_name() {
    let text = fs::read_to_string(repository("docs/reference/cli.md")).unwrap();
    for command in Cli::command().get_subcommands().filter(|command| command.get_name() == "serve") {
        for argument in command.get_arguments().filter(|argument| argument.get_env().is_some()) {
            let Some(flag) = argument.get_long().filter(|flag| *flag != "config") else { continue };
            assert!(text.contains(&format!("| `{flag}` |")), "{flag} has no key in docs/reference/cli.md");
            let problem = toml::from_str::<nibiru::config::Options>(&format!("{flag} = {{}}")).unwrap_err();
            assert!(!problem.to_string().contains("unknown field"), "{problem}");
        }
    }
}

#[test]
fn the_page_about_redaction_lists_exactly_the_names_that_the_code_has() {
    use nibiru::log::redact::{NAMES, Where};

    let text = fs::read_to_string(repository("docs/how-to/status.md")).unwrap();
    for (place, row) in [
        (Where::Anywhere, "| anywhere |"),
        (Where::Word, "| as a word |"),
        (Where::Query, "| as the whole name of a query parameter |"),
    ] {
        let cell = text.lines().find_map(|line| line.strip_prefix(row)).unwrap();
        let listed: BTreeSet<&str> = cell.split('`').skip(1).step_by(2).collect();
        let known = NAMES.iter().filter(|(_, known, _)| *known == place).map(|(name, ..)| *name).collect();
        assert_eq!(listed, known, "{row}");
    }
}
