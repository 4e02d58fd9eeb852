//! Circular dependencies between the files of `src/`: by the paths that a file names, and by the methods of `Gateway`
//! that it calls.
//!
//! A file is a module. A path is a dependency on the file that defines its item, even if a parent re-exports the item.
//! The lines `mod` and `pub use` of a `mod.rs` are not dependencies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{code, sources};

/// The dependencies: from each file to the files that it names.
type Arrows = BTreeMap<String, BTreeSet<String>>;

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let scan = Scan::of(sources());
    let arrows = scan.paths();
    assert!(arrows.values().map(BTreeSet::len).sum::<usize>() > 200, "the scan finds too few paths");
    refuse_circles(&arrows);
}

#[test]
fn methods_of_the_gateway_do_not_call_each_other_in_a_circle() {
    let scan = Scan::of(sources());
    let (paths, calls) = (scan.paths(), scan.calls("Gateway", "gateway"));
    assert!(!calls.is_empty(), "the scan finds no methods of Gateway");
    let within = |file: &str| file.starts_with("gateway/");
    let mut arrows = Arrows::new();
    for (from, to) in paths.into_iter().chain(calls).filter(|(from, _)| within(from)) {
        arrows.entry(from).or_default().extend(to.into_iter().filter(|to| within(to)));
    }
    refuse_circles(&arrows);
}

/// Fails if there are circles in `arrows`, and shows the shortest path around each.
fn refuse_circles(arrows: &Arrows) {
    let found: Vec<String> =
        circles(arrows).iter().map(|circle| shortest(arrows, circle).join(" → ")).collect();
    assert!(found.is_empty(), "a circle:\n{}", found.join("\n"));
}

/// The sources as tokens, and their modules.
struct Scan {
    files: Vec<Source>,
    /// The index of each module's file, by the module's path.
    modules: BTreeMap<Vec<String>, usize>,
}

/// A file of `src/`.
struct Source {
    file: String,
    module: Vec<String>,
    tokens: Vec<String>,
    /// The absolute path behind each imported or re-exported name.
    imports: BTreeMap<String, Vec<String>>,
}

impl Scan {
    fn of(sources: Vec<(String, String)>) -> Self {
        let mut files = Vec::new();
        for (file, text) in sources {
            // The roots of the two crates declare modules, and nothing imports from them.
            if file == "main.rs" || file == "lib.rs" {
                continue;
            }
            let module = file.trim_end_matches(".rs").trim_end_matches("/mod");
            let module = module.split('/').map(str::to_owned).collect();
            let code: String = code(&text).flat_map(|(_, line)| [line, "\n"]).collect();
            files.push(Source { file, module, tokens: tokens(&code), imports: BTreeMap::new() });
        }
        let modules =
            files.iter().enumerate().map(|(index, source)| (source.module.clone(), index)).collect();
        let mut scan = Self { files, modules };
        for index in 0..scan.files.len() {
            let imports = scan.uses(index).flat_map(|(_, paths)| paths);
            let imports = imports.filter_map(|(name, path)| Some((name, scan.absolute(index, &path)?)));
            scan.files[index].imports = imports.collect();
        }
        scan
    }

    /// The `use` declarations of a file: the place of each, and its names with the paths behind them.
    fn uses(&self, index: usize) -> impl Iterator<Item = (usize, Vec<(String, Vec<String>)>)> + '_ {
        let tokens = &self.files[index].tokens;
        let begins = tokens.iter().enumerate().filter(|(_, token)| *token == "use").map(|(at, _)| at);
        begins.map(move |at| {
            let mut paths = Vec::new();
            tree(tokens, at + 1, &[], &mut paths);
            (at, paths)
        })
    }

    /// The path from the crate's root; `None` for a path to another crate.
    fn absolute(&self, index: usize, path: &[String]) -> Option<Vec<String>> {
        let Source { module, imports, .. } = &self.files[index];
        let (first, rest) = path.split_first()?;
        let mut base = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.clone(),
            "super" => module[..module.len() - 1].to_vec(),
            name => {
                let child = [module.as_slice(), &[name.to_owned()]].concat();
                match imports.get(name) {
                    Some(imported) => imported.clone(),
                    None if self.modules.contains_key(&child) => child,
                    None => return None,
                }
            }
        };
        for segment in rest {
            if segment == "super" {
                base.pop();
            } else if segment != "self" {
                base.push(segment.clone());
            }
        }
        Some(base)
    }

    /// The index of the file that defines the item at an absolute path, and whether the path names only a module.
    fn defining(&self, path: &[String], depth: u32) -> Option<(usize, bool)> {
        let length = (1..=path.len()).rev().find(|length| self.modules.contains_key(&path[..*length]))?;
        let index = self.modules[&path[..length]];
        let Some(item) = path.get(length) else { return Some((index, true)) };
        match self.files[index].imports.get(item) {
            Some(imported) if depth < 8 => {
                self.defining(&[imported.as_slice(), &path[length + 1..]].concat(), depth + 1)
            }
            _ => Some((index, false)),
        }
    }

    /// The dependencies by the paths in `use` declarations and in the code.
    fn paths(&self) -> Arrows {
        let mut arrows = Arrows::new();
        for (index, source) in self.files.iter().enumerate() {
            let mut named: Vec<Vec<String>> = Vec::new();
            let (tokens, mut at) = (&source.tokens, 0);
            while at < tokens.len() {
                if tokens[at] == "use" {
                    let mut paths = Vec::new();
                    let end = tree(tokens, at + 1, &[], &mut paths);
                    let is_public = at > 0 && (tokens[at - 1] == "pub" || tokens[at - 1] == ")");
                    if !(is_public && source.file.ends_with("/mod.rs")) {
                        named.extend(paths.into_iter().map(|(_, path)| path));
                    }
                    at = end;
                    continue;
                }
                let begins = at == 0 || !matches!(tokens[at - 1].as_str(), "::" | ".");
                if begins && tokens.get(at + 1).is_some_and(|next| next == "::") {
                    let mut path = vec![tokens[at].clone()];
                    while tokens.get(at + 1).is_some_and(|next| next == "::")
                        && tokens.get(at + 2).is_some_and(|next| is_name(next))
                    {
                        path.push(tokens[at + 2].clone());
                        at += 2;
                    }
                    named.push(path);
                }
                at += 1;
            }
            for path in named {
                let Some(path) = self.absolute(index, &path) else { continue };
                // An imported module is a dependency only where an item in it is named.
                if let Some((to, false)) = self.defining(&path, 0).filter(|(to, _)| *to != index) {
                    arrows.entry(source.file.clone()).or_default().insert(self.files[to].file.clone());
                }
            }
        }
        arrows
    }

    /// The dependencies by calls of methods of the type `name`: on `self` in its `impl` blocks, and on variables and
    /// fields named `variable`.
    fn calls(&self, name: &str, variable: &str) -> Arrows {
        let mut defined: BTreeMap<&str, &str> = BTreeMap::new();
        let mut blocks = Vec::new();
        for source in &self.files {
            let mut inside = vec![false; source.tokens.len()];
            for (begin, end) in impl_blocks(&source.tokens, name) {
                inside[begin..end].fill(true);
                let body = &source.tokens[begin..end];
                for pair in body.windows(2).filter(|pair| pair[0] == "fn") {
                    defined.insert(&pair[1], &source.file);
                }
            }
            blocks.push(inside);
        }
        let mut arrows = Arrows::new();
        for (source, inside) in self.files.iter().zip(&blocks) {
            for (at, call) in source.tokens.windows(4).enumerate() {
                let receiver = call[0] == variable || (call[0] == "self" && inside[at]);
                if let Some(file) = defined.get(call[2].as_str())
                    && receiver
                    && call[1] == "."
                    && call[3] == "("
                    && *file != source.file
                {
                    arrows.entry(source.file.clone()).or_default().insert((*file).to_owned());
                }
            }
        }
        arrows
    }
}

/// The ranges of tokens between the braces of `impl name`, without the blocks that implement a trait for it.
fn impl_blocks(tokens: &[String], name: &str) -> Vec<(usize, usize)> {
    let mut blocks = Vec::new();
    for at in 0..tokens.len() {
        if tokens[at] == "impl"
            && tokens.get(at + 1).is_some_and(|token| token == name)
            && tokens.get(at + 2).is_some_and(|token| token == "{")
        {
            let mut depth = 0;
            let length = tokens[at + 2..].iter().position(|token| {
                depth += i32::from(token == "{") - i32::from(token == "}");
                depth == 0
            });
            blocks.push((at + 2, at + 2 + length.expect("braces are balanced")));
        }
    }
    blocks
}

/// Reads a tree of a `use` declaration from `at` on, and returns the index after it.
fn tree(
    tokens: &[String],
    mut at: usize,
    prefix: &[String],
    paths: &mut Vec<(String, Vec<String>)>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("::") => at += 1,
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = tree(tokens, at, &path, paths);
                    at += usize::from(tokens.get(at).is_some_and(|token| token == ","));
                }
                return at + 1;
            }
            Some("as") => {
                paths.push((tokens[at + 1].clone(), path));
                return at + 2;
            }
            Some(name) if is_name(name) => {
                if name != "self" || path.is_empty() {
                    path.push(name.to_owned());
                }
                at += 1;
            }
            _ => {
                paths.extend(path.last().cloned().map(|name| (name, path)));
                return at;
            }
        }
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// The tokens of `code`: names, `::` and single characters, without strings, characters and comments.
fn tokens(code: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length = if is_name(rest) {
            rest.find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else if rest.starts_with("//") {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
            continue;
        } else if first == '"' {
            rest = after_string(&rest[1..]);
            continue;
        } else if let Some(raw) = rest.strip_prefix("#\"") {
            rest = raw.split_once("\"#").map_or("", |(_, rest)| rest);
            continue;
        } else if let Some(length) = character(rest) {
            rest = &rest[length..];
            continue;
        } else {
            first.len_utf8()
        };
        if !first.is_whitespace() {
            tokens.push(rest[..length].to_owned());
        }
        rest = &rest[length..];
    }
    tokens
}

/// The length of a character literal at the beginning of `text`; `None` for lifetimes and everything else.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    match inner.strip_prefix('\\') {
        Some(escaped) => Some(escaped[1..].find('\'')? + 4),
        None => {
            let length = inner.chars().next()?.len_utf8();
            inner[length..].starts_with('\'').then_some(length + 2)
        }
    }
}

/// The text after a string literal that has begun.
fn after_string(text: &str) -> &str {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

/// The sets of files that depend on each other, sorted.
fn circles(arrows: &Arrows) -> Vec<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        arrows.keys().map(|from| (from, reachable(arrows, from))).collect();
    let mut circles: Vec<Vec<String>> = Vec::new();
    for (file, all) in &reached {
        if all.contains(file) && !circles.iter().any(|circle| circle.contains(file)) {
            let mutual =
                all.iter().filter(|other| reached.get(*other).is_some_and(|back| back.contains(file)));
            circles.push(mutual.map(ToString::to_string).collect());
        }
    }
    circles
}

fn reachable<'a>(arrows: &'a Arrows, from: &str) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&String> = arrows.get(from).into_iter().flatten().collect();
    while let Some(file) = open.pop() {
        if reached.insert(file) {
            open.extend(arrows.get(file).into_iter().flatten());
        }
    }
    reached
}

/// The shortest path from one of `files` back to the same file.
fn shortest(arrows: &Arrows, files: &[String]) -> Vec<String> {
    let ways = files.iter().filter_map(|file| {
        let mut open = VecDeque::from([vec![file]]);
        let mut seen = BTreeSet::new();
        while let Some(way) = open.pop_front() {
            for next in arrows.get(way[way.len() - 1]).into_iter().flatten() {
                let longer = [way.as_slice(), &[next]].concat();
                if next == file {
                    return Some(longer);
                }
                if seen.insert(next) {
                    open.push_back(longer);
                }
            }
        }
        None
    });
    ways.min_by_key(Vec::len).into_iter().flatten().cloned().collect()
}

/// A scan of the files of a test.
fn scan(files: &[(&str, &str)]) -> Scan {
    Scan::of(files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect())
}

#[test]
fn a_circle_through_any_form_of_path_is_found() {
    for (one, other) in [
        ("use crate::a::two::Two;", "use crate::a::one::{Other, One as First};"),
        ("use super::two::{\n    Two,\n};", "fn f() { crate::a::one::g() }"),
        ("use crate::a::two;\nfn f() { two::g() }", "use crate::a::One;"),
        ("use crate::{a::{two::Two, three}, b};", "fn f() -> super::one::One { \"}\"; '{' }"),
    ] {
        let scan = scan(&[
            ("a/mod.rs", "mod one;\nmod two;\npub(crate) use one::One;\npub use two::*;"),
            ("a/one.rs", one),
            ("a/two.rs", other),
        ]);
        assert_eq!(circles(&scan.paths()), [["a/one.rs", "a/two.rs"]], "{one} {other}");
    }
}

#[test]
fn one_way_dependencies_are_not_a_circle() {
    for (one, other) in [
        ("use crate::a::two::Two;", "//! use crate::a::one::One;"),
        ("use crate::a::two::Two;", "const TEXT: &str = \"crate::a::one::One\";"),
        ("use crate::a::two;\nfn f() { two::g() }", "use std::io;\nfn f() { io::one() }"),
        ("use crate::a::two::Two;", "fn f() {}\nmod tests {\n    use crate::a::one::One;"),
    ] {
        let scan = scan(&[("a/mod.rs", "mod one;\nmod two;"), ("a/one.rs", one), ("a/two.rs", other)]);
        assert!(circles(&scan.paths()).is_empty(), "{one} {other}");
        assert_eq!(scan.paths().len(), 1);
    }
}

#[test]
fn a_circle_through_method_calls_is_found() {
    let scan = scan(&[
        ("one.rs", "impl Gateway {\n fn first(&self) { self.second() } }"),
        ("two.rs", "impl Gateway {\n fn second(&self) {} }\nimpl Other { fn f(&self) { self.first() } }"),
        ("three.rs", "fn f(gateway: &Gateway) { gateway.first(); other.second() }"),
        ("four.rs", "impl Gateway { fn third(&self) { self.gateway.fourth() } fn fifth(&self) {} }"),
        ("five.rs", "impl Gateway { fn fourth(&self) { self.fifth() } }"),
    ]);
    let arrows = scan.calls("Gateway", "gateway");
    assert_eq!(arrows["three.rs"], BTreeSet::from(["one.rs".to_owned()]));
    assert_eq!(circles(&arrows), [["five.rs", "four.rs"]]);
}

#[test]
#[should_panic(expected = "a circle:\na.rs → b.rs → a.rs")]
fn a_circle_fails_with_its_shortest_path() {
    let scan = scan(&[("a.rs", "use crate::b::B;"), ("b.rs", "use crate::a::A;")]);
    refuse_circles(&scan.paths());
}
