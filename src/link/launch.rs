//! The execution of the zygote by the gateway: the arguments of the hidden command `zygote`.
//!
//! Standard input is the control link; standard output and error are a pipe into the gateway's log.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cgi::ProxyHeaders;
use crate::config::{self, Config, Preload, ProxyHeader, Sendfile, SendfileMap, Switch};

/// The name under which the zygote is executed. The spaces make room for its titles and its workers', which are written
/// over its arguments: see [`crate::os::title`].
pub const NAME: &str = "nibiru                                                          ";

/// The settings of a zygote.
#[derive(Clone, Debug, clap::Args)]
pub struct Launch {
    /// The generation of the code
    #[arg(long)]
    pub generation: u32,
    /// When to load the application
    #[arg(long, value_enum)]
    pub preload: Preload,
    /// The limit of a worker's memory, in bytes
    #[arg(long)]
    pub memory_limit: Option<u64>,
    /// Root of the application
    #[arg(long)]
    pub root: PathBuf,
    /// The soft limit of open files for the application; none is unlimited
    #[arg(long)]
    pub open_files: Option<u64>,
    /// How the proxy is told to send a file
    #[arg(long, value_enum)]
    pub sendfile: Sendfile,
    /// Where the proxy finds the application's files
    #[arg(long)]
    pub sendfile_map: Vec<SendfileMap>,
    /// Headers with orders for the proxy that the application may send
    #[arg(long)]
    pub proxy_headers: Vec<ProxyHeader>,
    /// Whether the zygote is dumpable
    #[arg(long, value_enum)]
    pub dumpable: Switch,
    /// The application
    pub app: String,
}

impl Launch {
    /// The launch for the application of `config`, with `open_files` as its soft limit.
    pub fn new(config: &Config, generation: u32, open_files: Option<u64>) -> Self {
        Self {
            generation,
            preload: config.preload,
            memory_limit: config.memory_limit,
            root: config.root.clone(),
            open_files,
            sendfile: config.sendfile,
            sendfile_map: config.sendfile_map.clone(),
            proxy_headers: config.proxy_headers.clone(),
            dumpable: config.dumpable,
            app: config.app.clone(),
        }
    }

    /// The orders that the application may give the proxy.
    pub fn proxy_headers(&self) -> ProxyHeaders {
        let map: Vec<_> = self.sendfile_map.iter().flat_map(SendfileMap::resolved).collect();
        config::proxy_headers(self.sendfile, &map, &self.proxy_headers)
    }

    /// The arguments that parse back into this launch, the command's name first.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut root = OsString::from("--root=");
        root.push(&self.root);
        let mut arguments: Vec<OsString> = vec![
            "zygote".into(),
            format!("--generation={}", self.generation).into(),
            format!("--preload={}", self.preload).into(),
            root,
            format!("--sendfile={}", self.sendfile).into(),
            format!("--dumpable={}", self.dumpable).into(),
        ];
        arguments.extend(self.sendfile_map.iter().map(|entry| format!("--sendfile-map={entry}").into()));
        arguments.extend(self.proxy_headers.iter().map(|name| format!("--proxy-headers={name}").into()));
        arguments.extend(self.open_files.map(|limit| format!("--open-files={limit}").into()));
        arguments.extend(self.memory_limit.map(|limit| format!("--memory-limit={limit}").into()));
        arguments.extend(["--".into(), self.app.clone().into()]);
        arguments
    }
}
