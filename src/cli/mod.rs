//! The command line: the commands and their arguments. Runs no command.

mod arguments;

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::cmd::dev::HttpAddress;
use crate::config::{Options, Sources};
use crate::link::launch::Launch;

pub use arguments::Error;

/// The note on variables and keys, once under the help, so that the list of options fits a screen.
const SETTINGS: &str = "Each option is also an environment variable (NIBIRU_QUEUE_TIMEOUT for --queue-timeout) \
                        and, --config aside, a key of nibiru.toml. Flags beat the environment beats the file.";

/// Under the help of `nibiru` itself.
const EXAMPLES: &str = "Examples:
  nibiru dev          ./app.lua at http://127.0.0.1:8000/, for development
  nibiru serve        ./app.lua over FastCGI at ./nibiru.sock, for nginx or Caddy
  nibiru help serve   every option";

/// Options of `serve` that `dev` refuses as flags, each with the alternative. Their variables and keys of the file are ignored: they
/// are the production server's.
const NOT_FOR_DEV: &[(&str, &str)] = &[
    ("listen", "dev speaks HTTP, at --http ADDR"),
    ("allow_from", "dev checks no client's address; give --http an address that only you reach"),
    ("socket_mode", "dev speaks HTTP, at --http ADDR"),
    ("socket_owner", "dev speaks HTTP, at --http ADDR"),
    ("control", "dev reloads by itself, and Ctrl-C stops it"),
    ("exit_idle_time", "dev runs until Ctrl-C"),
    ("drain_delay", "dev stops at once, with no load balancer to warn"),
    ("sendfile", "dev has no proxy that could send the file"),
    ("sendfile_map", "dev has no proxy that could send the file"),
];

/// The FastCGI application server for Lua.
#[derive(Debug, Parser)]
#[command(name = "nibiru", version, max_term_width = 100, infer_subcommands = false, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the command line of this process.
    ///
    /// # Errors
    /// clap's errors, help and version included; a flag that the command refuses; a variable that is set but empty.
    pub fn read() -> Result<Self, Error> {
        #[expect(
            clippy::disallowed_methods,
            reason = "main calls this first, and nobody has taken the arguments yet"
        )]
        let given: Vec<_> = std::env::args_os().collect();
        let mut command = Self::command();
        // A command shows its arguments only once it is built.
        command.build();
        let chosen = given.get(1).and_then(|name| command.find_subcommand(name)).cloned();
        let matches = match command.try_get_matches_from(&given) {
            Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                return Err(error.into());
            }
            matches => matches,
        };
        chosen.as_ref().map_or(Ok(()), arguments::no_variable_is_empty)?;
        let explained = |error: clap::Error| {
            let known = chosen.as_ref().and_then(|command| arguments::explain(&error, command, &given));
            known.map_or(Error::Usage(error), Error::Value)
        };
        let matches = matches.map_err(explained)?;
        if let Some(("dev", dev)) = matches.subcommand() {
            refuse_flags_of_serve(dev)?;
        }
        let mut cli = Self::from_arg_matches(&matches)?;
        if let (Some(chosen), Some((_, matches))) = (&chosen, matches.subcommand()) {
            cli.note_sources(arguments::sources(chosen, matches));
        }
        Ok(cli)
    }

    /// Gives the settings of the command their origins.
    fn note_sources(&mut self, sources: Sources) {
        match &mut self.command {
            Command::Serve(Server { serve, .. })
            | Command::Dev(Dev { serve, .. })
            | Command::Check(serve) => {
                serve.sources = sources;
            }
            _ => {}
        }
    }
}

/// Refuses the flags that `dev` would otherwise ignore in silence.
fn refuse_flags_of_serve(dev: &ArgMatches) -> Result<(), clap::Error> {
    let given = |id: &str| dev.value_source(id) == Some(ValueSource::CommandLine);
    match NOT_FOR_DEV.iter().find(|(id, _)| given(id)) {
        Some((id, instead)) => {
            let message = format!("--{}: {instead}", id.replace('_', "-"));
            Err(clap::Error::raw(ErrorKind::ArgumentConflict, message))
        }
        None => Ok(()),
    }
}

/// An option of `serve` in `dev`, hidden where `dev` refuses it.
fn option_of_dev(argument: Arg) -> Arg {
    let unused = NOT_FOR_DEV.iter().any(|(id, _)| argument.get_id() == id);
    option_of_serve(argument).hide(unused)
}

/// An option without its variable in the help, which [`SETTINGS`] says once for all. A negative number is its value, so that the
/// message is about the number.
fn option_of_serve(argument: Arg) -> Arg {
    let takes_value = argument.get_long().is_some() && argument.get_action().takes_values();
    argument.hide_env(true).allow_negative_numbers(takes_value)
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve an application over HTTP for development: reload on change, errors in the browser
    #[command(
        mut_args(option_of_dev),
        after_help = "The options of `serve` apply, with their variables and keys, but for those of its sockets and its proxy, and a stop \
                            waits a second at most. Files in ROOT/public are served as they are."
    )]
    Dev(Dev),
    /// Serve an application over FastCGI, for production
    #[command(mut_args(option_of_serve), after_help = SETTINGS)]
    Serve(Server),
    /// Say whether `serve` would start: settings, sockets, files, application
    #[command(mut_args(option_of_serve), after_help = SETTINGS)]
    Check(Serve),
    /// Send one request to a FastCGI socket, as a proxy would
    Request(Request),
    /// Show what a running server is doing
    Status(Status),
    /// Load the application and the settings again; ends when the new code answers, or has failed to
    Reload(Control),
    /// Stop a running server; ends when it has ended
    Stop(Control),
    /// Change the number of workers, until the next reload
    Scale(Scale),
    /// Load the application and fork workers; the gateway executes this
    #[command(hide = true)]
    Zygote(Launch),
}

/// `serve`.
#[derive(Debug, Args)]
pub struct Server {
    /// Take the sockets over from the server that runs with these settings, and then let it go
    #[arg(long)]
    pub take_over: bool,
    /// The settings.
    #[command(flatten)]
    pub serve: Serve,
}

/// `check`, and the settings of `serve` and `dev`.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// Configuration file [nibiru.toml, where there is one]
    #[arg(long, value_name = "FILE", env = "NIBIRU_CONFIG")]
    pub config: Option<PathBuf>,
    /// The settings.
    #[command(flatten)]
    pub options: Options,
    /// The origins of these settings.
    #[arg(skip)]
    pub sources: Sources,
}

/// `dev`.
#[derive(Debug, Args)]
pub struct Dev {
    /// Address of the HTTP server: PORT, or HOST:PORT
    #[arg(long, value_name = "ADDR", env = "NIBIRU_HTTP", default_value = "127.0.0.1:8000")]
    pub http: HttpAddress,
    /// The settings of `serve`, without the production server's addresses.
    #[command(flatten)]
    pub serve: Serve,
}

/// `reload` and `stop`: the running server that they are for.
#[derive(Debug, Args)]
pub struct Control {
    /// Control socket: unix:PATH, or NAME for nibiru@NAME under systemd [the server's that runs here]
    #[arg(long, value_name = "ADDR", env = "NIBIRU_CONTROL", hide_env = true)]
    pub control: Option<crate::cmd::control::Address>,
    /// Configuration file of the server [nibiru.toml, where there is one]
    #[arg(long, value_name = "FILE", env = "NIBIRU_CONFIG", hide_env = true)]
    pub config: Option<PathBuf>,
}

/// `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The running server.
    #[command(flatten)]
    pub control: Control,
}

/// `scale`.
#[derive(Debug, Args)]
pub struct Scale {
    /// Workers: N, or MIN-MAX
    #[arg(value_name = "N")]
    pub workers: crate::config::Workers,
    /// The running server.
    #[command(flatten)]
    pub control: Control,
}

/// `request`.
#[derive(Debug, Args)]
pub struct Request {
    /// The method: GET, POST …
    #[arg(value_name = "METHOD")]
    pub method: String,
    /// A path, with or without scheme and host: /path?query
    #[arg(value_name = "URL")]
    pub url: String,
    /// Socket to send to: unix:PATH or tcp:HOST:PORT
    #[arg(long, value_name = "ADDR", default_value = "unix:nibiru.sock")]
    pub to: crate::config::Listen,
    /// A request header; repeatable
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// The body; @FILE reads it from a file, @- from standard input
    #[arg(short, long, value_name = "DATA")]
    pub data: Option<String>,
    /// Print the response head too
    #[arg(short, long)]
    pub include: bool,
}
