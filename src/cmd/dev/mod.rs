//! `nibiru dev`: an HTTP front that speaks FastCGI to a gateway in the same process.
//!
//! ```text
//! browser ──HTTP──► front ──► files                       (public/)
//!                     │
//!                     └─► upstream ──FastCGI──► gateway   (private socket)
//!                             │                    ▲
//!                             └─► page             └── reload ── watcher ◄── the kernel: a file changed
//! ```
//!
//! The gateway is the one of `nibiru serve`, so what runs here runs there; it does not know about the front.
//! For development only: one machine, one user, no TLS.

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
use crate::gateway::Code;
use crate::gateway::Command;
use crate::gateway::Error;
use crate::gateway::Mode;
use crate::gateway::ReadConfig;

pub use self::address::HttpAddress;

/// The longest that a stop waits for running requests, whatever `--grace` says: whoever presses Ctrl-C
/// wants the prompt back, and a page with an event stream would hold it for ever.
const GRACE: Duration = Duration::from_secs(1);

/// How long clients have to read the last of their responses once the gateway has stopped.
const FAREWELL: Duration = Duration::from_millis(500);

/// Serves the application over HTTP at `http` until a signal stops it. `read_config` reads the settings again, for a
/// reload.
///
/// The addresses of `--listen` are not used: they are the production server's. The gateway listens on a socket
/// in a directory that only this user can enter.
///
/// # Errors
/// When `http` cannot be listened on, or the gateway cannot start. An application that does not load is no
/// error: every request is answered with the reason until it does.
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
        let code = watch::Sender::new(Code::default());
        let watcher = Watcher::start(&config.root, directory.path(), &code, commands.clone());
        let (root, socket) = (watch::Sender::new(config.root.clone()), directory.path().join("gateway.sock"));
        let stopping = stop_on_signals(commands);
        let front = Front::new(root.subscribe(), socket.clone(), code.subscribe(), Rc::clone(&watcher));
        let front = tokio::task::spawn_local(front.serve(listener, stopping));

        let config = private(config, &socket);
        let again = ReadConfig(Box::new(move || {
            let config = private(read_config.0()?, &socket);
            // The link that leads to the root may lead elsewhere by now.
            if *root.borrow() != config.root {
                root.send_replace(config.root.clone());
                watcher.follow(&config.root);
            }
            Ok(config)
        }));
        let mode = Mode { development: true, code, read_config: Some(again), ..Mode::default() };
        gateway::run(config, mode, received).await?;
        // Whoever has not read its response by then has had its time.
        let _ = tokio::time::timeout(FAREWELL, front).await;
        Ok(())
    })
}

/// These settings for a gateway that only the front talks to, at `socket`.
fn private(config: Config, socket: &Path) -> Config {
    Config {
        // Nothing to be found by: it takes no commands.
        file: None,
        listen: vec![Listen::Unix(socket.to_owned())],
        socket_mode: SocketMode(0o600),
        socket_owner: None,
        control: None,
        exit_idle_time: None,
        drain_delay: None,
        // There is no proxy: the front would pass the order on to the browser.
        sendfile: Sendfile::Off,
        sendfile_map: Vec::new(),
        grace: config.grace.min(GRACE),
        ..config
    }
}

/// The address first, and so that it is found among the log.
fn announce(config: &Config, listener: &TcpListener) -> io::Result<()> {
    let address = listener.local_addr()?;
    match config.log_format {
        crate::log::Format::Text => {
            let app = crate::log::escape::line(config.app.as_bytes());
            // Where nobody reads it, the server is there all the same.
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

/// Passes signals on to the gateway; what it gives becomes true at the first that stops.
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
        // Kept to the end: the front stops when its sender is gone.
        std::future::pending::<()>().await;
    });
    stopping
}
