//! The `nibiru` executable: runs the half of nibiru that the command names.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use nibiru::cli::{self, Cli, Command, Serve, Server};
use nibiru::cmd::control::{self, CommandConnection};
use nibiru::cmd::{check, dev, request, stdout};
use nibiru::config::{Config, ConfigError, FILE, Options, StartDirectory};
use nibiru::gateway::ReadConfig;
use nibiru::{gateway, log, zygote};

/// Exit code of a failure at run time.
const FAILED: u8 = 1;
/// Exit code of wrong usage: a flag, a variable or the configuration file.
const USAGE: u8 = 2;
/// Exit code of an application that does not load.
const NOT_LOADED: u8 = 3;

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(cli::Error::Value(error)) => return fail(USAGE, error),
        Err(cli::Error::Usage(error)) => return usage(error),
    };
    match cli.command {
        // The gateway: owns the sockets, executes the zygote, dispatches requests to the workers.
        Command::Serve(Server { serve, take_over }) => match configure(serve.clone()) {
            Ok((config, log)) => finish(gateway::serve(config, read_again(serve), take_over), log),
            Err(failed) => failed,
        },
        // The same gateway, behind an HTTP server.
        Command::Dev(dev) => match configure(dev.serve.clone()) {
            Ok((config, log)) => finish(dev::serve(config, read_again(dev.serve), &dev.http), log),
            Err(failed) => failed,
        },
        // The fork server: loads the application, then forks the workers. Executed by the gateway.
        Command::Zygote(launch) => zygote::run(&launch),
        // A gateway that starts and serves no client. Logs to standard error, never to the server's log.
        Command::Check(serve) => match check_config(serve) {
            Ok((config, log)) => match check::run(config) {
                Ok(summary) => print(&summary),
                Err(error) => finish(Err(error), log),
            },
            Err(failed) => failed,
        },
        // Clients of a running gateway.
        Command::Status(status) => match send_command(&status.control, "status") {
            Ok((answer, _)) => show_status(&answer, status.json),
            Err(error) => fail(error.exit_code(FAILED), error),
        },
        Command::Reload(control) => match send_command(&control, "reload") {
            Ok((answer, _)) => print(&control::reloaded(&answer)),
            Err(error) => {
                let (code, outcome) = (error.exit_code(NOT_LOADED), error.outcome());
                let failed = fail(code, error);
                outcome.map_or(failed, |outcome| print_and_end(&outcome, failed))
            }
        },
        Command::Stop(control) => match send_command(&control, "stop") {
            Ok((_, mut call)) => {
                call.wait_for_the_end();
                print(&control::stopped())
            }
            Err(error) => fail(error.exit_code(FAILED), error),
        },
        Command::Scale(scale) => match send_command(&scale.control, &format!("scale {}", scale.workers)) {
            Ok((answer, _)) => print(&control::scaled(&answer)),
            Err(error) => fail(error.exit_code(FAILED), error),
        },
        // A FastCGI client in the place of a proxy.
        Command::Request(arguments) => match request::run(&arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(request::Error::Output(error)) => not_printed(&error, ExitCode::SUCCESS),
            Err(error) => fail(FAILED, error),
        },
    }
}

/// Reads flags, environment and file over the defaults, then starts the log. On failure prints the reason and returns the exit
/// code.
fn configure(serve: Serve) -> Result<(Config, log::Guard), ExitCode> {
    let config = read_config(serve, Path::new("")).map_err(|error| fail(USAGE, error))?;
    let log = log::init(config.log_format, config.log_level, config.log.as_deref());
    Ok((config, log.map_err(|error| fail(FAILED, error))?))
}

/// Like [`configure`], but logs to standard error and only tests the server's log file.
fn check_config(serve: Serve) -> Result<(Config, log::Guard), ExitCode> {
    let config = read_config(serve, Path::new("")).map_err(|error| fail(USAGE, error))?;
    config.log.as_deref().map_or(Ok(()), log::try_out).map_err(|error| fail(FAILED, error))?;
    let config = check::quietly(config);
    let log = log::init(config.log_format, config.log_level, None);
    Ok((config, log.map_err(|error| fail(FAILED, error))?))
}

/// The function that reads the settings again for a reload: the file as it is then, under the same flags and variables, with
/// the links to the start directory followed anew.
fn read_again(serve: Serve) -> ReadConfig {
    let start = StartDirectory::of_this_process();
    ReadConfig(Box::new(move || read_config(serve.clone(), start.path())))
}

/// Reads the settings. Relative paths start at `directory`; an empty one is the working directory.
fn read_config(serve: Serve, directory: &Path) -> Result<Config, ConfigError> {
    let (options, sources) = Options::from_file(directory, serve.config.as_deref())?.unwrap_or_default();
    let sources = serve.sources.or(sources);
    let options = serve.options.or(options).with_paths_below(directory);
    let config = Config::new(options).map_err(|error| error.named_by(&sources))?;
    Ok(Config { file: Some(serve.config.unwrap_or_else(|| FILE.into())), ..config })
}

fn send_command(
    server: &cli::Control,
    command: &str,
) -> Result<(serde_json::Value, CommandConnection), control::Error> {
    let path = control::find(server.config.as_deref(), server.control.clone())?;
    let mut call = CommandConnection::new(&path, command)?;
    Ok((call.answer()?, call))
}

/// Prints a status as text, or as the server sent it. The exit code tells whether the server answers requests.
fn show_status(answer: &serde_json::Value, json: bool) -> ExitCode {
    let status = control::status(answer);
    let code = match &status {
        Ok(status) if control::is_down(status) => ExitCode::from(FAILED),
        _ => ExitCode::SUCCESS,
    };
    match status {
        _ if json => print_and_end(&log::escape::json(&format!("{answer}\n")), code),
        Ok(status) => print_and_end(&control::status_text(&status), code),
        Err(error) => fail(error.exit_code(FAILED), error),
    }
}

/// The exit code of a gateway. Prints the final message after every line of the log, which may go to standard error as well.
fn finish(result: Result<(), gateway::Error>, log: log::Guard) -> ExitCode {
    if let Err(error) = &result {
        log.log_fatal(error);
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

/// Prints the final text of a command, and returns `code`, or the failure to print.
fn print_and_end(text: &str, code: ExitCode) -> ExitCode {
    // Escaped, because the text may reach a terminal and quotes a server, a file or an argument.
    match stdout::write(log::escape::text(text.as_bytes()).as_bytes()) {
        Ok(()) => code,
        Err(error) => not_printed(&error, code),
    }
}

/// The exit code of a command whose output was not printed. A reader that left early (`nibiru status | head -1`) changes
/// nothing, as with ripgrep, because the code may be a verdict. Lost output fails a command that had succeeded; a failed one
/// keeps its code.
fn not_printed(error: &stdout::Error, code: ExitCode) -> ExitCode {
    if error.is_closed() {
        return code;
    }
    let failed = fail(FAILED, error);
    if code == ExitCode::SUCCESS { failed } else { code }
}

fn fail(status: u8, error: impl Display) -> ExitCode {
    let message = format!("nibiru: {}\n", log::escape::text(error.to_string().as_bytes()));
    // In one piece, because other processes may write there too. The error is ignored: standard error may be closed.
    let _ = io::stderr().write_all(message.as_bytes());
    ExitCode::from(status)
}

/// The exit code of a usage error. Help and version are no errors; all others get the format of nibiru's own messages.
fn usage(mut error: clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => not_printed(&error.into(), ExitCode::SUCCESS),
        },
        // `nibiru` alone: the help on standard error, because a script without a command has made a mistake.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // The error is ignored: standard error may be closed.
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

/// Removes clap's tip to pass an unknown flag as a value (`-- --flag`): no value of nibiru begins with a dash.
fn keep_good_advice(error: &mut clap::Error) {
    if let Some(ContextValue::StyledStrs(mut tips)) = error.remove(ContextKind::Suggested) {
        tips.retain(|tip| !tip.to_string().contains("as a value"));
        if !tips.is_empty() {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
    }
}
