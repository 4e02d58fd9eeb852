//! Tells the process story: which command runs which half of nibiru.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use nibiru::cli::{self, Cli, Command, Serve, Server};
use nibiru::cmd::control::{self, Call};
use nibiru::cmd::{check, dev, request, stdout};
use nibiru::config::{Config, ConfigError, FILE, Options, StartDirectory};
use nibiru::gateway::ReadConfig;
use nibiru::{gateway, log, zygote};

/// Failed at run time.
const FAILED: u8 = 1;
/// Wrong usage: a flag, a variable or the configuration file.
const USAGE: u8 = 2;
/// The application does not load.
const NOT_LOADED: u8 = 3;

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(cli::Error::Value(error)) => return fail(USAGE, error),
        Err(cli::Error::Usage(error)) => return usage(error),
    };
    match cli.command {
        // The gateway: owns the sockets, executes the zygote, hands requests to the workers.
        Command::Serve(Server { serve, take_over }) => match configure(serve.clone()) {
            Ok((config, log)) => finish(gateway::serve(config, read_again(serve), take_over), log),
            Err(failed) => failed,
        },
        // The same gateway, with an HTTP front before it.
        Command::Dev(dev) => match configure(dev.serve.clone()) {
            Ok((config, log)) => finish(dev::serve(config, read_again(dev.serve), &dev.http), log),
            Err(failed) => failed,
        },
        // The fork server: loads the application, then forks the workers. Executed by the gateway.
        Command::Zygote(launch) => zygote::run(&launch),
        // A gateway that starts and serves nobody. Its log is not the server's.
        Command::Check(serve) => match check_config(serve) {
            Ok((config, log)) => match check::run(config) {
                Ok(summary) => print(&summary),
                Err(error) => finish(Err(error), log),
            },
            Err(failed) => failed,
        },
        // Clients of a running gateway.
        Command::Status(status) => match tell(&status.control, "status") {
            Ok((answer, _)) => {
                let text = if status.json {
                    log::escape::json(&format!("{answer}\n")).into_owned()
                } else {
                    control::status_text(&answer)
                };
                let down = control::is_down(&answer);
                print_and_end(&text, if down { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
            }
            Err(error) => fail(error.exit_code(FAILED), error),
        },
        Command::Reload(control) => match tell(&control, "reload") {
            Ok((answer, _)) => print(&control::reloaded(&answer)),
            Err(error) => {
                let (code, outcome) = (error.exit_code(NOT_LOADED), error.outcome());
                let failed = fail(code, error);
                outcome.map_or(failed, |outcome| print_and_end(&outcome, failed))
            }
        },
        Command::Stop(control) => match tell(&control, "stop") {
            Ok((_, mut call)) => {
                call.wait_for_the_end();
                print(&control::stopped())
            }
            Err(error) => fail(error.exit_code(FAILED), error),
        },
        Command::Scale(scale) => match tell(&scale.control, &format!("scale {}", scale.workers)) {
            Ok((answer, _)) => print(&control::scaled(&answer)),
            Err(error) => fail(error.exit_code(FAILED), error),
        },
        // A client: what a proxy would send.
        Command::Request(arguments) => match request::run(&arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(request::Error::Output(error)) => not_printed(&error, ExitCode::SUCCESS),
            Err(error) => fail(FAILED, error),
        },
    }
}

/// Flags and environment over the file over the defaults; then the log can start. Says what fails, and gives the exit code.
fn configure(serve: Serve) -> Result<(Config, log::Guard), ExitCode> {
    let config = read_config(serve, Path::new("")).map_err(|error| fail(USAGE, error))?;
    let log = log::init(config.log_format, config.log_level, config.log.as_deref());
    Ok((config, log.map_err(|error| fail(FAILED, error))?))
}

/// As [`configure`], but that the log goes to standard error, and that the server's is only tried.
fn check_config(serve: Serve) -> Result<(Config, log::Guard), ExitCode> {
    let config = read_config(serve, Path::new("")).map_err(|error| fail(USAGE, error))?;
    config.log.as_deref().map_or(Ok(()), log::try_out).map_err(|error| fail(FAILED, error))?;
    let config = check::quietly(config);
    let log = log::init(config.log_format, config.log_level, None);
    Ok((config, log.map_err(|error| fail(FAILED, error))?))
}

/// A reload reads the file as it is then, under the same flags and variables, and follows the links that lead to
/// where nibiru was started.
fn read_again(serve: Serve) -> ReadConfig {
    let start = StartDirectory::of_this_process();
    ReadConfig(Box::new(move || read_config(serve.clone(), start.path())))
}

/// Relative paths start at `directory`; an empty one is the working directory.
fn read_config(serve: Serve, directory: &Path) -> Result<Config, ConfigError> {
    let (options, sources) = Options::from_file(directory, serve.config.as_deref())?.unwrap_or_default();
    let sources = serve.sources.or(sources);
    let options = serve.options.or(options).with_root_below(directory);
    let config = Config::new(options).map_err(|error| error.named_by(&sources))?;
    Ok(Config { file: Some(serve.config.unwrap_or_else(|| FILE.into())), ..config })
}

fn tell(server: &cli::Control, command: &str) -> Result<(serde_json::Value, Call), control::Error> {
    let path = control::find(server.config.as_deref(), server.control.clone())?;
    let mut call = Call::new(&path, command)?;
    Ok((call.answer()?, call))
}

/// The exit code of a gateway, and its last message: behind every line of the log, which may go to standard error as well.
fn finish(result: Result<(), gateway::Error>, log: log::Guard) -> ExitCode {
    if let Err(error) = &result {
        log.last_words(error);
    }
    drop(log);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ gateway::Error::Load(_)) => fail(NOT_LOADED, error),
        Err(error) => fail(FAILED, error),
    }
}

fn print(text: &str) -> ExitCode {
    print_and_end(text, ExitCode::SUCCESS)
}

/// Prints the last of what a command has to say. `code` is its exit code.
fn print_and_end(text: &str, code: ExitCode) -> ExitCode {
    // It may end at a terminal, and names what a server, a file or an argument said.
    match stdout::write(log::escape::text(text.as_bytes()).as_bytes()) {
        Ok(()) => code,
        Err(error) => not_printed(&error, code),
    }
}

/// A reader that has seen enough (`nibiru status | head -1`) changes nothing about a command, as with ripgrep: its exit
/// code may be a verdict. Output that is lost is a failure, but of a command that has failed already the lesser one.
fn not_printed(error: &stdout::Error, code: ExitCode) -> ExitCode {
    if error.is_closed() {
        return code;
    }
    let failed = fail(FAILED, error);
    if code == ExitCode::SUCCESS { failed } else { code }
}

fn fail(status: u8, error: impl Display) -> ExitCode {
    let message = format!("nibiru: {}\n", log::escape::text(error.to_string().as_bytes()));
    // In one piece, since other processes may write there too. A closed standard error leaves nobody to tell.
    let _ = io::stderr().write_all(message.as_bytes());
    ExitCode::from(status)
}

/// Help and version are no errors; everything else reads like our own.
fn usage(mut error: clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => not_printed(&error.into(), ExitCode::SUCCESS),
        },
        // `nibiru` alone: the help, on standard error, since a script that says no command has made a mistake.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // A closed standard error leaves nobody to tell.
            let _ = error.print();
            ExitCode::from(USAGE)
        }
        _ => {
            keep_good_advice(&mut error);
            let text = error.render().to_string();
            fail(USAGE, text.trim_start_matches("error: ").trim_end())
        }
    }
}

/// Takes clap's tip away to pass an unknown flag as a value (`-- --flag`): no value of ours begins with a dash.
fn keep_good_advice(error: &mut clap::Error) {
    if let Some(ContextValue::StyledStrs(mut tips)) = error.remove(ContextKind::Suggested) {
        tips.retain(|tip| !tip.to_string().contains("as a value"));
        if !tips.is_empty() {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
    }
}
