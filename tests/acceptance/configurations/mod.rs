//! Common configurations, each with the real program: the environ and the body in the application for each kind of
//! request. These are the rows of the table in `docs/reference/configurations.md`.

mod front_ends;
mod gone;
mod nginx;
mod programs;

use std::fmt::Write as _;
use std::fs;

use crate::support::{App, Gate, Reply, repository};

/// An application that writes the cells of the table for each request, to its response and to the file `seen` of the
/// gate.
const APPLICATION: &str = r#"
local directory = os.getenv("GATE")

local function shown(value)
  return value == "" and "empty" or value or "absent"
end

return function(environ)
  local body = #environ["wsgi.input"]:read("a") .. " bytes"
  if environ.X_BODY_FILE then
    local file = assert(io.open(environ.X_BODY_FILE, "rb"))
    body = body .. ", and a file of " .. #file:read("a")
    file:close()
  end
  local text = table.concat({
    shown(environ.SCRIPT_NAME), shown(environ.PATH_INFO), shown(environ.CONTENT_LENGTH),
    environ["nibiru.promised_length"] or "", body,
  }, " | ")
  local file = assert(io.open(directory .. "/seen", "a"))
  file:write(environ.REQUEST_METHOD, " | ", text, "\n")
  file:close()
  return 200, { ["Content-Type"] = "text/plain" }, text
end
"#;

/// The application in a scratch directory, and the gate for its file `seen`.
fn application() -> (App, Gate) {
    (App::new(APPLICATION), Gate::new())
}

/// The configuration, the request, and the cells of the application.
type Row = (&'static str, &'static str, &'static str);

/// The titles of the application's cells.
const CELLS: [&str; 5] = ["SCRIPT_NAME", "PATH_INFO", "CONTENT_LENGTH", "promised", "what it reads"];

/// Every row of every test, grouped by configuration.
fn rows() -> Vec<Row> {
    let mut rows = [front_ends::ROWS, gone::ROWS, nginx::ROWS, programs::ROWS].concat();
    let configurations: Vec<&str> = rows.iter().map(|(configuration, ..)| *configuration).collect();
    rows.sort_by_key(|(configuration, ..)| configurations.iter().position(|other| other == configuration));
    rows
}

/// Expects that the rows of `configuration` are exactly `seen`.
#[track_caller]
fn compare(all: &[Row], configuration: &str, seen: &[(&'static str, String)]) {
    let expected: Vec<(&str, String)> = all
        .iter()
        .filter(|(of, ..)| *of == configuration)
        .map(|(_, sent, seen)| (*sent, (*seen).to_owned()))
        .collect();
    assert_eq!(seen, expected, "{configuration}");
}

/// The outcome for the client, as the table writes it.
fn seen(reply: &Reply) -> String {
    match (reply.exit, reply.status) {
        (0, 200) => reply.text(),
        (0, status) => status.to_string(),
        (exit, _) => format!("curl: {exit}"),
    }
}

/// The table in Markdown.
fn table() -> String {
    let rule = " --- |".repeat(2 + CELLS.len());
    let mut text = format!("| configuration | the client sends | {} |\n|{rule}\n", CELLS.join(" | "));
    for (configuration, sent, seen) in rows() {
        let missing = CELLS.len() - seen.split(" | ").count();
        let _ = writeln!(text, "| {configuration} | {sent} | {seen} |{}", "  |".repeat(missing));
    }
    text
}

#[test]
fn the_page_has_the_table_of_the_tests() {
    let text = fs::read_to_string(repository("docs/reference/configurations.md")).unwrap();
    let table = table();
    assert!(text.contains(&table), "docs/reference/configurations.md should hold\n\n{table}");
    let lines = |text: &str| text.lines().filter(|line| line.starts_with('|')).count();
    assert_eq!(lines(&text), lines(&table), "the page has a row without a test");
}
