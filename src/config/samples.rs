//! Settings as the tests of this folder give them: flags and the text of a file.

use clap::Parser as _;

use super::file;
use super::{Config, Options};

/// The options alone, as `serve` takes them.
#[derive(clap::Parser)]
pub(super) struct Flags {
    #[command(flatten)]
    pub(super) options: Options,
}

/// The settings in the text of a file `nibiru.toml`.
pub(super) fn file(text: &str) -> Result<Options, String> {
    let read = file::read("nibiru.toml".as_ref(), text);
    read.map(|(options, _)| options).map_err(|error| error.to_string())
}

/// The decided settings as text, where flags stand before a file that names an application.
pub(super) fn decided(flags: &[&str], text: &str) -> Result<String, String> {
    let flags = Flags::try_parse_from([&["serve"], flags].concat()).map_err(|error| error.to_string())?;
    let file = file(&format!("app = 'a'\n{text}"))?;
    let config = Config::new(flags.options.or(file)).map_err(|error| error.to_string())?;
    Ok(format!("{config:?}"))
}
