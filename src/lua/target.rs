//! The place of an application: `module.path:name` or `path/to/file.lua[:name]`, as on the command line.
//!
//! Never checks that the application exists.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::error::Error;

/// The place of an application's callable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The module or file to load.
    pub source: Source,
    /// The field that holds the callable; without it, `application`, the module itself, then `app`.
    pub name: Option<String>,
}

/// The module or file of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// For `require`.
    Module(String),
    /// Relative to the application's root unless absolute.
    File(PathBuf),
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (source, name) = match text.rsplit_once(':') {
            Some((source, name)) => (source, Some(name)),
            None => (text, None),
        };
        if source.is_empty() || name == Some("") || source.contains('\0') {
            return Err(Error::Target(text.to_owned()));
        }
        // A module's name has no slash, and `.lua` at its end would name a submodule `lua`.
        let source = if source.contains('/') || source.ends_with(".lua") {
            Source::File(PathBuf::from(source))
        } else {
            Source::Module(source.to_owned())
        };
        Ok(Self { source, name: name.map(str::to_owned) })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Module(module) => f.write_str(module)?,
            Source::File(path) => write!(f, "{}", path.display())?,
        }
        self.name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_modules_from_files_and_reads_names() {
        for (text, source, name) in [
            ("shop", Source::Module("shop".into()), None),
            ("shop.web:app", Source::Module("shop.web".into()), Some("app")),
            ("main.lua", Source::File("main.lua".into()), None),
            ("web/main.lua:run", Source::File("web/main.lua".into()), Some("run")),
            ("/srv/a:b/main.lua:run", Source::File("/srv/a:b/main.lua".into()), Some("run")),
            ("./script", Source::File("./script".into()), None),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target, Target { source, name: name.map(str::to_owned) }, "{text}");
            assert_eq!(target.to_string(), text);
        }
    }

    #[test]
    fn refuses_what_names_nothing() {
        for text in ["", ":app", "shop:", "main.lua:", "a\0b"] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
    }
}
