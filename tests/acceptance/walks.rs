//! The commands in the documentation, all of which `tests/clean-debian` runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::support::repository;

/// The pages with commands for readers to type.
fn pages() -> Vec<String> {
    let how_to = fs::read_dir(repository("docs/how-to")).unwrap();
    let mut pages: Vec<String> =
        how_to.map(|entry| format!("docs/how-to/{}", entry.unwrap().file_name().to_str().unwrap())).collect();
    pages.extend(["README.md", "docs/tutorial.md", "examples/README.md"].map(str::to_owned));
    pages
}

/// For each page that a walk takes to its end, the number of blocks of commands that the walk takes.
fn walked() -> BTreeMap<String, usize> {
    let mut walked: BTreeMap<String, usize> = BTreeMap::new();
    for entry in fs::read_dir(repository("tests/clean/pages")).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        let (mut page, mut left): (Option<(String, usize)>, BTreeMap<String, usize>) = Default::default();
        for line in fs::read_to_string(&path).unwrap().lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("page") => {
                    walked.extend(page.take());
                    page = Some((words.next().unwrap().to_owned(), 0));
                }
                // A page that the walk leaves and continues later.
                Some("leave_page") => left.extend(page.take()),
                Some("page_again") => {
                    walked.extend(page.take());
                    page = left.remove_entry(words.next().unwrap());
                }
                Some("run" | "background" | "fails" | "exempt") => page.as_mut().unwrap().1 += 1,
                _ => {}
            }
        }
        walked.extend(page);
    }
    walked
}

/// `tests/clean-debian` takes hours; this test finds a page that has changed while its walk has not.
#[test]
fn every_block_of_commands_has_its_step_in_a_walk() {
    let walked = walked();
    for page in pages() {
        let text = fs::read_to_string(repository(&page)).unwrap();
        let blocks = text.lines().filter(|line| *line == "```sh").count();
        assert_eq!(
            walked.get(&page).copied().unwrap_or(0),
            blocks,
            "tests/clean/pages takes the left number of sh blocks of {page}, which has the right number: add a step for each block"
        );
    }
}
