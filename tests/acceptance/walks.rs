//! The commands in the documentation: `tests/clean-debian` runs all of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::support::repository;

/// The pages whose commands a reader types.
fn pages() -> Vec<String> {
    let how_to = fs::read_dir(repository("docs/how-to")).unwrap();
    let mut pages: Vec<String> =
        how_to.map(|entry| format!("docs/how-to/{}", entry.unwrap().file_name().to_str().unwrap())).collect();
    pages.extend(["README.md", "docs/tutorial.md", "examples/README.md"].map(str::to_owned));
    pages
}

/// How many blocks of commands each walk takes of each page that it walks to its end.
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
                // What it begins with, or what goes on later.
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

/// The night runs them; this finds a page that has changed and its walk has not.
#[test]
fn every_block_of_commands_is_walked_on_a_fresh_debian() {
    let walked = walked();
    for page in pages() {
        let text = fs::read_to_string(repository(&page)).unwrap();
        let blocks = text.lines().filter(|line| *line == "```sh").count();
        assert_eq!(
            walked.get(&page).copied().unwrap_or(0),
            blocks,
            "tests/clean/pages takes so many blocks of sh of {page}, and there are so many: say there what is done with each"
        );
    }
}
