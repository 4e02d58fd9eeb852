//! The watcher of Lua files: a change becomes a reload.
//!
//! A request after a save always gets the new code: [`Watcher::newest`] waits until every change before the call has been
//! reported, then for the load of that change. Nothing is polled: changes come from the kernel (inotify(7)).

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use notify::event::{EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::gateway::Command;
use crate::gateway::Load;
use crate::gateway::NewestGeneration;
use crate::log::rate_limit::LogRateLimiter;

/// The time without a change after which a save or a checkout counts as complete.
const QUIET: Duration = Duration::from_millis(50);

/// The longest delay of a reload where changes never cease.
const MAX_QUIET: Duration = Duration::from_secs(1);

/// The longest wait for a marker's event. The kernel drops events only where thousands wait.
const MARKER_TIMEOUT: Duration = Duration::from_millis(500);

/// The most entries of a new directory that are read. A larger directory counts as one with code.
const MAX_LOOKED_AT: usize = 1000;

/// The watcher of the application's root.
#[derive(Debug)]
pub(super) struct Watcher {
    root: RefCell<PathBuf>,
    /// A directory for markers. The event of a marker file comes after the events of all changes before it: events keep their
    /// order.
    markers: PathBuf,
    next_marker: Cell<u64>,
    /// The number of the last marker whose event has come.
    seen: watch::Sender<u64>,
    code: watch::Sender<NewestGeneration>,
    /// The first generation with every change that was reported; it may not be loaded yet.
    wanted: Cell<u32>,
    changed: mpsc::UnboundedSender<PathBuf>,
    /// The kernel's watches, which end with this value; `None` where the kernel refused.
    notify: RefCell<Option<RecommendedWatcher>>,
}

impl Watcher {
    /// Starts to watch `root`. Changes become [`Command::Reload`]. `markers` is an empty directory for this watcher alone. Where
    /// the kernel refuses, logs a warning and watches nothing.
    pub(super) fn start(
        root: &Path,
        markers: &Path,
        code: &watch::Sender<NewestGeneration>,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Rc<Self> {
        let (sender, events) = mpsc::unbounded_channel();
        let (changed, changes) = mpsc::unbounded_channel();
        let watcher = Rc::new(Self {
            root: RefCell::new(root.to_owned()),
            markers: markers.to_owned(),
            next_marker: Cell::new(1),
            seen: watch::Sender::new(0),
            code: code.clone(),
            wanted: Cell::new(1),
            changed,
            notify: RefCell::new(None),
        });
        let begun = notify::recommended_watcher(move |event| {
            // The receiver is gone only where the watcher is about to be dropped.
            let _ = sender.send(event);
        })
        .and_then(|mut notify| {
            notify.watch(markers, RecursiveMode::NonRecursive)?;
            notify.watch(root, RecursiveMode::Recursive)?;
            Ok(notify)
        });
        match begun {
            Ok(notify) => {
                watcher.notify.replace(Some(notify));
            }
            Err(error) => warn!(
                process = "dev",
                cause = %error,
                "cannot watch {}: send SIGHUP to reload (sysctl fs.inotify.max_user_watches bounds what is watched)",
                root.display()
            ),
        }
        tokio::task::spawn_local(Rc::clone(&watcher).listen(events));
        tokio::task::spawn_local(reload(changes, commands));
        watcher
    }

    /// Watches another root from now on, in place of the one before.
    pub(super) fn follow(&self, root: &Path) {
        let before = self.root.replace(root.to_owned());
        if let Some(notify) = self.notify.borrow_mut().as_mut() {
            // The directory may be gone, and its watch with it.
            let _ = notify.unwatch(&before);
            if let Err(error) = notify.watch(root, RecursiveMode::Recursive) {
                warn!(process = "dev", cause = %error, "cannot watch {}: send SIGHUP to reload", root.display());
            }
        }
    }

    /// Waits until the code that is on the disk now has been loaded or has failed to load.
    pub(super) async fn newest(&self) {
        if self.notify.borrow().is_some() {
            self.catch_up().await;
        }
        let mut code = self.code.subscribe();
        let settled =
            |code: &NewestGeneration| code.generation >= self.wanted.get() && code.load != Load::Running;
        // Cannot fail: `self` holds the sender.
        let _ = code.wait_for(settled).await;
    }

    /// Waits until every change before this call has been reported, for [`MARKER_TIMEOUT`] at most.
    async fn catch_up(&self) {
        let number = self.next_marker.replace(self.next_marker.get() + 1);
        let path = self.markers.join(number.to_string());
        if let Err(cause) = File::create_new(&path).and_then(|_| std::fs::remove_file(&path)) {
            debug!(process = "dev", cause = %crate::log::cause(&cause), "cannot make a marker");
            return;
        }
        let mut seen = self.seen.subscribe();
        let came = tokio::time::timeout(MARKER_TIMEOUT, seen.wait_for(|last| *last >= number)).await;
        if came.is_err() {
            debug!(process = "dev", "a marker did not come back");
        }
    }

    async fn listen(self: Rc<Self>, mut events: mpsc::UnboundedReceiver<notify::Result<Event>>) {
        // The kernel may refuse many new directories, with an event each.
        let mut limiter = LogRateLimiter::new(std::time::Instant::now());
        while let Some(event) = events.recv().await {
            match event {
                Ok(event) if event.need_rescan() => {
                    let root = self.root.borrow().clone();
                    self.noticed(&root);
                }
                Ok(event) => self.event(&event),
                Err(error) => {
                    if let Some(left_out) = limiter.allow(std::time::Instant::now()) {
                        warn!(process = "dev", cause = %error, left_out, "some changes may go unseen");
                    }
                }
            }
        }
    }

    fn event(self: &Rc<Self>, event: &Event) {
        let appears = match event.kind {
            EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(_)) => true,
            EventKind::Modify(_) | EventKind::Remove(_) => false,
            EventKind::Access(_) | EventKind::Any | EventKind::Other => return,
        };
        for path in &event.paths {
            if let Ok(marker) = path.strip_prefix(&self.markers) {
                let number = marker.to_str().and_then(|name| name.parse().ok());
                self.seen.send_if_modified(|last| match number {
                    Some(number) if number > *last => {
                        *last = number;
                        true
                    }
                    _ => false,
                });
            } else if is_hidden(&self.root.borrow(), path) {
                // For example .git, and the temporary files of editors.
            } else if is_code(path) {
                self.noticed(path);
            } else if appears && path.is_dir() {
                // Files that were there before the directory was watched have no event.
                if holds_code(path) {
                    self.noticed(path);
                    continue;
                }
                let (watcher, directory) = (Rc::clone(self), path.clone());
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(QUIET).await;
                    if holds_code(&directory) {
                        watcher.noticed(&directory);
                    }
                });
            }
        }
    }

    /// Notes a change and asks for a reload. Later requests wait for a generation whose load begins after this call.
    fn noticed(&self, path: &Path) {
        self.wanted.set(self.code.borrow().generation + 1);
        let root = self.root.borrow();
        let path = path.strip_prefix(&*root).unwrap_or(path);
        // Cannot fail: the receiver's task lives as long as `self`.
        let _ = self.changed.send(path.to_owned());
    }
}

/// Turns each burst of changes into one reload.
async fn reload(mut changes: mpsc::UnboundedReceiver<PathBuf>, commands: mpsc::UnboundedSender<Command>) {
    while let Some(first) = changes.recv().await {
        let until = Instant::now() + MAX_QUIET;
        let mut paths = BTreeSet::from([first]);
        while let Ok(Some(path)) =
            tokio::time::timeout_at(until.min(Instant::now() + QUIET), changes.recv()).await
        {
            paths.insert(path);
        }
        let mut paths = paths.iter();
        let shown = paths.next().map(|path| path.display().to_string()).unwrap_or_default();
        match paths.count() {
            0 => info!(process = "dev", "changed: {shown}"),
            more => info!(process = "dev", "changed: {shown} and {more} more"),
        }
        if commands.send(Command::Reload).is_err() {
            return;
        }
    }
}

/// Whether a part of the path below `root` is hidden: begins with a dot.
fn is_hidden(root: &Path, path: &Path) -> bool {
    let below = path.strip_prefix(root).unwrap_or(path);
    below.iter().any(|part| part.as_encoded_bytes().starts_with(b"."))
}

fn is_code(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "lua")
}

/// Whether there is a Lua file somewhere in the directory.
fn holds_code(directory: &Path) -> bool {
    let (mut open, mut looked_at) = (vec![directory.to_owned()], 0);
    while let Some(directory) = open.pop() {
        // A directory that is gone again holds nothing.
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            looked_at += 1;
            if is_code(&entry.path()) || looked_at > MAX_LOOKED_AT {
                return true;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_is_what_has_a_dot_in_front_below_the_root() {
        let root = Path::new("/srv/.cache/app");
        assert!(!is_hidden(root, Path::new("/srv/.cache/app/lib/x.lua")));
        assert!(is_hidden(root, Path::new("/srv/.cache/app/.git/x.lua")));
        assert!(is_hidden(root, Path::new("/srv/.cache/app/lib/.x.lua")));
    }

    #[test]
    fn a_directory_holds_code_at_any_depth() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("notes.txt"), "").unwrap();
        assert!(!holds_code(directory.path()));
        std::fs::write(deep.join("x.lua"), "").unwrap();
        assert!(holds_code(directory.path()));
    }
}
