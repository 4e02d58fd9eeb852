//! The supervisor's decisions without I/O: the order of a load and of a stop, the zygotes and what each is asked for, the deadlines
//! of starts. Std only; time is an argument. [`crate::gateway`]'s supervisor is the driver.

mod reload;
mod start_deadline;
mod stop;
mod zygotes;

pub(crate) use crate::proto::supervisor::reload::{Consequence, Reason, Reload, Remedy};
pub(crate) use crate::proto::supervisor::start_deadline::{StartAction, StartDeadline};
pub(crate) use crate::proto::supervisor::stop::{Stop, StopAction, StopEvent, StopTimes};
pub(crate) use crate::proto::supervisor::zygotes::{Ended, Role, Zygotes};
