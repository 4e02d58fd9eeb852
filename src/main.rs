//! Tells the process story: which command runs which half of nibiru.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use nibiru::cli::{self, Cli, Command, Serve, Server};
use nibiru::config::{Config, ConfigError, Options};
use nibiru::control::{self, Call};
use nibiru::gateway::ReadConfig;
use nibiru::{check, dev, gateway, log, request, zygote};

/// Failed at run time.
const FAILED: u8 = 1;
/// Wrong usage: a flag, a variable or the configuration file.
const USAGE: u8 = 2;
/// The application does not load.
const NOT_LOADED: u8 = 3;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli.command {
        // The gateway: owns the sockets, executes the zygote, hands requests to the workers.
        Command::Serve(Server { serve, take_over }) => match configure(serve.clone()) {
            // A reload reads the file as it is then, under the same flags and variables.
            Ok((config, _log)) => {
                let again = ReadConfig(Box::new(move || read_config(serve.clone())));
                finish(gateway::serve(config, again, take_over))
            }
            Err(error) => fail(USAGE, error),
        },
        // The same gateway, with an HTTP front before it.
        Command::Dev(dev) => match configure(dev.serve) {
            Ok((config, _log)) => finish(dev::serve(config, &dev.http)),
            Err(error) => fail(USAGE, error),
        },
        // The fork server: loads the application, then forks the workers. Executed by the gateway.
        Command::Zygote(launch) => zygote::run(&launch),
        // No server: the application is loaded and let go.
        Command::Check(serve) => match configure(serve) {
            Ok((config, _log)) => match check::run(&config) {
                Ok(summary) => {
                    println!("{summary}");
                    ExitCode::SUCCESS
                }
                Err(error) => fail(NOT_LOADED, error),
            },
            Err(error) => fail(USAGE, error),
        },
        // Clients of a running gateway.
        Command::Status(status) => match tell(&status.control, "status") {
            Ok((answer, _)) if status.json => {
                println!("{answer}");
                ExitCode::SUCCESS
            }
            Ok((answer, _)) => {
                print!("{}", control::describe(&answer));
                ExitCode::SUCCESS
            }
            Err(error) => fail(error.exit_code(FAILED), error),
        },
        Command::Reload(control) => match tell(&control, "reload") {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => fail(error.exit_code(NOT_LOADED), error),
        },
        Command::Stop(control) => match tell(&control, "stop") {
            Ok((_, mut call)) => {
                call.wait_for_the_end();
                ExitCode::SUCCESS
            }
            Err(error) => fail(error.exit_code(FAILED), error),
        },
        Command::Scale(scale) => match tell(&scale.control, &format!("scale {}", scale.workers)) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => fail(error.exit_code(FAILED), error),
        },
        // A client: what a proxy would send.
        Command::Request(arguments) => match request::run(&arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(FAILED, error),
        },
    }
}

/// Flags and environment over the file over the defaults; then the log can start.
fn configure(serve: Serve) -> Result<(Config, log::Guard), ConfigError> {
    let config = read_config(serve)?;
    let log = log::init(config.log_format, config.log_level);
    Ok((config, log))
}

fn read_config(serve: Serve) -> Result<Config, ConfigError> {
    let file = Options::from_file(serve.config.as_deref())?;
    Config::new(serve.options.or(file.unwrap_or_default()))
}

fn tell(server: &cli::Control, command: &str) -> Result<(serde_json::Value, Call), control::Error> {
    let path = control::find(server.config.as_deref(), server.control.clone())?;
    let mut call = Call::new(&path, command)?;
    Ok((call.answer()?, call))
}

fn finish(result: Result<(), gateway::Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ gateway::Error::Load(_)) => fail(NOT_LOADED, error),
        Err(error) => fail(FAILED, error),
    }
}

fn fail(status: u8, error: impl Display) -> ExitCode {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(io::stderr(), "nibiru: {error}");
    ExitCode::from(status)
}

/// Help and version are no errors; everything else reads like our own.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A closed standard output leaves nobody to tell.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    fail(USAGE, text.trim_start_matches("error: ").trim_end())
}
