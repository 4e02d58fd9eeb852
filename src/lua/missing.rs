//! The messages for a target at which there is no application, with a better target.
//!
//! Called by `state` where the application is loaded. Looks at names in the root, and never reads a file.

use std::path::{Path, PathBuf};

/// The error of a target that names a file; `None` where there is a file.
pub(super) fn file(root: &Path, file: &Path) -> Option<String> {
    let path = root.join(file);
    if path.is_dir() {
        return Some(format!("{}: a directory; {}", file.display(), instead_of_directory(root, file)));
    }
    // Lua's own message names a file that exists and cannot be read.
    if path.symlink_metadata().is_ok() {
        return None;
    }
    let message = if file.is_absolute() {
        format!("{}: no such file", file.display())
    } else {
        format!("{}: no such file in {} (--root)", file.display(), root.display())
    };
    Some(match near(root, file) {
        Some(near) => format!("{message}; {} is there", near.display()),
        None => message,
    })
}

/// The first line of the error of a target whose module is not there, in place of `require`'s.
pub(super) fn module(root: &Path, module: &str) -> String {
    let path = PathBuf::from(module.replace('.', "/"));
    let file = with_extension(&path);
    let message =
        format!("module '{module}' not found: no {} in {} (--root)", file.display(), root.display());
    if root.join(&path).is_dir() {
        format!("{message}; {} is a directory: {}", path.display(), instead_of_directory(root, &path))
    } else {
        message
    }
}

/// The advice for a target that names a directory.
fn instead_of_directory(root: &Path, directory: &Path) -> String {
    let has = |name: &str| root.join(directory).join(name).is_file();
    let shown = directory.join("");
    if has("init.lua") {
        format!("write {}init.lua", shown.display())
    } else if has("app.lua") {
        format!("for the app.lua in it, write --root {}", directory.display())
    } else {
        format!("name the file in it, such as {}web.lua, or give --root {0}", shown.display())
    }
}

/// A file that may be meant: the name with the extension, or without the directories of the root.
fn near(root: &Path, file: &Path) -> Option<PathBuf> {
    let longer = with_extension(file);
    if root.join(&longer).is_file() {
        return Some(longer);
    }
    let mut parts = file.components();
    parts.next();
    std::iter::from_fn(|| {
        let rest = parts.as_path().to_owned();
        parts.next()?;
        Some(rest)
    })
    .find(|rest| root.join(rest).is_file())
}

fn with_extension(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lua");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with `src/web.lua`, `shop/app.lua`, `lib/init.lua` and an empty `data`.
    fn root() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        for name in ["src/web.lua", "shop/app.lua", "lib/init.lua", "data/x"] {
            std::fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            std::fs::write(root.join(name), "").unwrap();
        }
        (directory, root)
    }

    #[test]
    fn a_file_that_is_not_there_is_named_with_what_may_be_meant() {
        let (_directory, root) = root();
        let in_root = root.display();
        for (name, message) in [
            ("src/web.lua", None),
            ("app.lua", Some(format!("app.lua: no such file in {in_root} (--root)"))),
            ("src/web", Some(format!("src/web: no such file in {in_root} (--root); src/web.lua is there"))),
            (
                "a/src/web.lua",
                Some(format!("a/src/web.lua: no such file in {in_root} (--root); src/web.lua is there")),
            ),
            ("/no/such.lua", Some("/no/such.lua: no such file".to_owned())),
            ("./lib", Some("./lib: a directory; write ./lib/init.lua".to_owned())),
            ("./shop", Some("./shop: a directory; for the app.lua in it, write --root ./shop".to_owned())),
            (
                "data/",
                Some(
                    "data/: a directory; name the file in it, such as data/web.lua, or give --root data/"
                        .to_owned(),
                ),
            ),
        ] {
            assert_eq!(file(&root, Path::new(name)), message, "{name}");
        }
    }

    #[test]
    fn a_module_that_is_not_there_names_the_file_that_would_be_it() {
        let (_directory, root) = root();
        let in_root = root.display();
        for (name, message) in [
            ("app", format!("module 'app' not found: no app.lua in {in_root} (--root)")),
            ("shop.web", format!("module 'shop.web' not found: no shop/web.lua in {in_root} (--root)")),
            (
                "shop",
                format!(
                    "module 'shop' not found: no shop.lua in {in_root} (--root); shop is a directory: for the app.lua \
                     in it, write --root shop"
                ),
            ),
        ] {
            assert_eq!(module(&root, name), message, "{name}");
        }
    }
}
