//! The command `nibiru dev`: an HTTP front that speaks FastCGI to a gateway in the same process.
//!
//! ```text
//! browser ──HTTP──► front ──► files                       (public/)
//!                     │
//!                     └─► upstream ──FastCGI──► gateway   (private socket)
//!                             │                    ▲
//!                             └─► page             └── reload ── watcher ◄── the kernel: a file changed
//! ```
//!
//! The gateway is the same as in `nibiru serve`, and does not know about the front. An application that runs under `dev` runs
//! under `serve`. The front is for development only: one machine, one user, no TLS.

mod address;
mod answer;
mod failure;
mod files;
mod front;
mod page;
mod upstream;
mod watcher;

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use self::front::Front;
use self::watcher::Watcher;
use crate::config::{Config, Listen, Sendfile, SocketMode};
use crate::gateway;
use crate::gateway::Command;
use crate::gateway::Error;
use crate::gateway::Mode;
use crate::gateway::NewestGeneration;
use crate::gateway::ReadConfig;

pub use self::address::HttpAddress;

/// The longest wait of a stop for running requests, also under a longer `--grace`. A developer who presses Ctrl-C wants the
/// prompt back, and a page with an event stream would hold the stop for ever.
const GRACE: Duration = Duration::from_secs(1);

/// The time that clients have to read the ends of their responses once the gateway has stopped.
const FAREWELL: Duration = Duration::from_millis(500);

/// Serves the application over HTTP at `http` until a signal stops it. `read_config` reads the settings again, for a
/// reload.
///
/// The addresses of `--listen` are not used: they are the production server's. The gateway listens on a socket
/// in a directory that only this user can enter.
///
/// # Errors
/// Those of listening on `http` and of the gateway's start. An application that does not load is no error: every request is
/// answered with the cause until the application loads.
pub fn serve(config: Config, read_config: ReadConfig, http: &HttpAddress) -> Result<(), Error> {
    gateway::block_on(async {
        let listener = TcpListener::bind(http.as_str())
            .await
            .map_err(|error| Error::Listen(format!("{http} (--http)"), error))?;
        let directory = tempfile::Builder::new()
            .prefix("nibiru-dev-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .map_err(Error::System)?;
        announce(&config, &listener).map_err(Error::System)?;

        let (commands, received) = mpsc::unbounded_channel();
        let code = watch::Sender::new(NewestGeneration::default());
        let watcher = Watcher::start(&config.root, directory.path(), &code, commands.clone());
        let (root, socket) = (watch::Sender::new(config.root.clone()), directory.path().join("gateway.sock"));
        let stopping = stop_on_signals(commands);
        let front = Front::new(root.subscribe(), socket.clone(), code.subscribe(), Rc::clone(&watcher));
        let front = tokio::task::spawn_local(front.serve(listener, stopping));

        let config = private(config, &socket);
        let again = ReadConfig(Box::new(move || {
            let config = private(read_config.0()?, &socket);
            // A symbolic link in the root's path may lead elsewhere by now.
            if *root.borrow() != config.root {
                root.send_replace(config.root.clone());
                watcher.follow(&config.root);
            }
            Ok(config)
        }));
        let mode = Mode { development: true, code, read_config: Some(again), ..Mode::default() };
        gateway::run(config, mode, received).await?;
        // A client that has not read its response by then is cut off.
        let _ = tokio::time::timeout(FAREWELL, front).await;
        Ok(())
    })
}

/// The settings for a gateway that serves only the front, at `socket`.
fn private(config: Config, socket: &Path) -> Config {
    Config {
        // The gateway takes no commands, so that commands need not find it.
        file: None,
        listen: vec![Listen::Unix(socket.to_owned())],
        socket_mode: SocketMode(0o600),
        socket_owner: None,
        control: None,
        exit_idle_time: None,
        drain_delay: None,
        // No proxy obeys the sendfile header: the front would pass it on to the browser.
        sendfile: Sendfile::Off,
        sendfile_map: Vec::new(),
        grace: config.grace.min(GRACE),
        ..config
    }
}

/// Prints the front's address, before the log and set off from it.
fn announce(config: &Config, listener: &TcpListener) -> io::Result<()> {
    let address = listener.local_addr()?;
    match config.log_format {
        crate::log::Format::Text => {
            let app = crate::log::escape::line(config.app.as_bytes());
            // A closed standard error does not stop the server.
            let banner = format!("\n  {app} is at  http://{address}/  (Ctrl-C stops it)\n\n");
            let _ = io::stderr().write_all(banner.as_bytes());
        }
        crate::log::Format::Json => {
            info!(process = "dev", app = config.app, "listening on http://{address}/")
        }
    }
    if address::is_for_others(address.ip()) {
        warn!(
            process = "dev",
            %address,
            "whoever reaches this address is shown the application's source with every error; for others than the user of \
             this machine there is `nibiru serve`"
        );
    }
    Ok(())
}

/// Passes signals on to the gateway. Gives a flag that becomes true at the first signal that stops.
fn stop_on_signals(commands: mpsc::UnboundedSender<Command>) -> watch::Receiver<bool> {
    let (stop, stopping) = watch::channel(false);
    let (signals, mut received) = mpsc::unbounded_channel();
    tokio::task::spawn_local(async move {
        if let Err(error) = gateway::forward_signals(signals).await {
            warn!(process = "dev", cause = %crate::log::cause(&error), "signals are not handled");
        }
    });
    tokio::task::spawn_local(async move {
        while let Some(command) = received.recv().await {
            if command == Command::Stop {
                stop.send_replace(true);
            }
            if commands.send(command).is_err() {
                return;
            }
        }
        // The sender lives as long as the task: the front would stop without it.
        std::future::pending::<()>().await;
    });
    stopping
}
