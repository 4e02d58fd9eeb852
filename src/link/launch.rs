//! The command line of a zygote: the hidden command `zygote`, for the gateway only.
//!
//! | argument | set to | the zygote |
//! | --- | --- | --- |
//! | `--generation N` | the number of the load, from 1 | names itself and its workers by it, in titles and in the log |
//! | `--preload auto\|on\|off` | `--preload` | loads the application before it forks, or leaves that to each worker |
//! | `--root DIR` | `--root` | changes its working directory there before it loads |
//! | `--sendfile FORM` | `--sendfile` | tells the application how to have the proxy send a file |
//! | `--sendfile-map ENTRY`, repeated | `--sendfile-map` | translates paths of the application to paths of the proxy |
//! | `--proxy-headers NAME`, repeated | `--proxy-headers` | lets the application send these headers |
//! | `--dumpable on\|off` | `--dumpable` | closes its memory to other processes of its user, if off |
//! | `--open-files N`, optional | the soft limit that the gateway was started with | restores that limit for the application; unlimited without it |
//! | `--memory-limit BYTES`, optional | `--memory-limit` | limits the memory of each worker; no limit without it |
//! | `APP`, after `--` | the application | loads this module |
//!
//! Standard input is the control link. Standard output and standard error are a pipe each into the gateway's log.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cgi::ProxyHeaders;
use crate::config::{self, Config, Preload, ProxyHeader, Sendfile, SendfileMap, Switch};

/// The name (`argv[0]`) of a zygote. Its spaces reserve memory for the titles of the zygote and its workers, which overwrite the
/// arguments: see [`crate::os::title`].
pub const NAME: &str = "nibiru                                                          ";

/// The arguments of a zygote: see the table of the module.
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
    /// The arguments for the application of `config`. `open_files` is the soft limit of open files for the application.
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

    /// The headers by which the application may control the proxy.
    pub fn proxy_headers(&self) -> ProxyHeaders {
        let map: Vec<_> = self.sendfile_map.iter().flat_map(SendfileMap::resolved).collect();
        config::proxy_headers(self.sendfile, &map, &self.proxy_headers)
    }

    /// The command line, with the name of the command first. Parses back into this value.
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
