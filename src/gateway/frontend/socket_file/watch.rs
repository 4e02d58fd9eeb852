//! The decisions of the watch over a socket file: when to log a fault, and when to recreate the file. Does no I/O.

use crate::gateway::frontend::socket_file::path_state::PathState;

/// A fault of the socket file. Logged once, until the fault changes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    /// Another file is at the path, or the path cannot be checked.
    State(PathState),
    /// The file is gone and could not be recreated, for this cause.
    NotRemade(String),
}

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The file is back after a fault.
    Back,
    /// The file was removed and has been recreated.
    Remade,
    /// The file was removed and could not be recreated, for this cause.
    NotRemade(String),
    /// The path cannot be checked, for this cause.
    Unknown(String),
    /// Another file is at the path.
    Replaced,
}

/// The result of an attempt to recreate the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RemakeResult {
    Done,
    /// Another server is creating a socket in that directory. The next check is soon.
    InUse,
    /// The attempt failed for this cause.
    Failed(String),
}

/// The next step after a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// None.
    Wait,
    /// Recreate the file, then call [`SocketWatch::remade`].
    Remake,
    Say(Report),
}

/// The state of the watch over one socket file.
#[derive(Debug, Default)]
pub(crate) struct SocketWatch {
    fault: Option<Fault>,
}

impl SocketWatch {
    /// Takes the result of a check.
    pub(crate) fn checked(&mut self, found: PathState) -> Step {
        let fault = match found {
            PathState::Nothing => return Step::Remake,
            PathState::Ours => None,
            other => Some(Fault::State(other)),
        };
        self.change(fault).map_or(Step::Wait, Step::Say)
    }

    /// Takes the result of an attempt to recreate the file.
    pub(crate) fn remade(&mut self, remaking: RemakeResult) -> Option<Report> {
        match remaking {
            RemakeResult::Done => {
                self.fault = None;
                Some(Report::Remade)
            }
            RemakeResult::InUse => None,
            RemakeResult::Failed(cause) => self.change(Some(Fault::NotRemade(cause))),
        }
    }

    /// Sets the fault. Returns a line for the log if it has changed.
    fn change(&mut self, fault: Option<Fault>) -> Option<Report> {
        if self.fault == fault {
            return None;
        }
        self.fault.clone_from(&fault);
        Some(match fault {
            None => Report::Back,
            Some(Fault::NotRemade(cause)) => Report::NotRemade(cause),
            Some(Fault::State(PathState::Unknown(cause))) => Report::Unknown(cause),
            Some(Fault::State(_)) => Report::Replaced,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn each_fault_is_said_once_until_it_changes() {
        let mut watch = SocketWatch::default();
        for (found, step) in [
            (PathState::Ours, Step::Wait),
            (PathState::Other((1, 2)), Step::Say(Report::Replaced)),
            (PathState::Other((1, 2)), Step::Wait),
            // Another file in the same place is another fault.
            (PathState::Other((1, 3)), Step::Say(Report::Replaced)),
            (PathState::Unknown(cause("a")), Step::Say(Report::Unknown(cause("a")))),
            (PathState::Unknown(cause("a")), Step::Wait),
            (PathState::Unknown(cause("b")), Step::Say(Report::Unknown(cause("b")))),
            (PathState::Ours, Step::Say(Report::Back)),
            (PathState::Ours, Step::Wait),
        ] {
            assert_eq!(watch.checked(found.clone()), step, "{found:?}");
        }
    }

    #[test]
    fn a_file_that_is_gone_is_made_anew_at_every_look_until_that_succeeds() {
        let mut watch = SocketWatch::default();
        let failed = || RemakeResult::Failed(cause("full"));
        for (remaking, report) in [
            (RemakeResult::InUse, None),
            (failed(), Some(Report::NotRemade(cause("full")))),
            (failed(), None),
            (RemakeResult::InUse, None),
            (failed(), None),
            (RemakeResult::Done, Some(Report::Remade)),
            (failed(), Some(Report::NotRemade(cause("full")))),
        ] {
            assert_eq!(watch.checked(PathState::Nothing), Step::Remake);
            assert_eq!(watch.remade(remaking.clone()), report, "{remaking:?}");
        }
        // The process that replaced the socket file has put this server's back.
        assert_eq!(watch.checked(PathState::Ours), Step::Say(Report::Back));
    }
}
