//! How the gateway executes the zygote: the arguments of the hidden `zygote` command.
//!
//! Standard input is the control link; standard output and error are a pipe into the gateway's log.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::config::{Config, Preload};

/// Under which name the zygote is executed. The spaces make room for its titles and its workers', which are written
/// over its arguments: see [`crate::title`].
pub const NAME: &str = "nibiru                                                          ";

/// What a zygote needs to know.
#[derive(Clone, Debug, clap::Args)]
pub struct Launch {
    /// The generation of the code
    #[arg(long)]
    pub generation: u32,
    /// When to load the application
    #[arg(long, value_enum)]
    pub preload: Preload,
    /// Bytes of memory that a worker can have at all
    #[arg(long)]
    pub memory_limit: Option<u64>,
    /// Root of the application
    #[arg(long)]
    pub root: PathBuf,
    /// The soft limit of open files for the application; none is unlimited
    #[arg(long)]
    pub open_files: Option<u64>,
    /// The application
    pub app: String,
}

impl Launch {
    /// For the application of `config`, which is to have `open_files` as its limit.
    pub fn new(config: &Config, generation: u32, open_files: Option<u64>) -> Self {
        Self {
            generation,
            preload: config.preload,
            memory_limit: config.memory_limit,
            root: config.root.clone(),
            open_files,
            app: config.app.clone(),
        }
    }

    /// The arguments that parse back into this, the command's name first.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut root = OsString::from("--root=");
        root.push(&self.root);
        let mut arguments: Vec<OsString> = vec![
            "zygote".into(),
            format!("--generation={}", self.generation).into(),
            format!("--preload={}", self.preload).into(),
            root,
        ];
        arguments.extend(self.open_files.map(|limit| format!("--open-files={limit}").into()));
        arguments.extend(self.memory_limit.map(|limit| format!("--memory-limit={limit}").into()));
        arguments.extend(["--".into(), self.app.clone().into()]);
        arguments
    }
}
