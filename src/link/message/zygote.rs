//! The messages between the gateway and the zygote.

use std::fmt;

use super::wire::{
    LogLevel, Malformed, put_bytes, put_log, put_u32, take_bool, take_bytes, take_log, take_u8, take_u32,
    take_u64,
};

/// Gateway → zygote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each message's text names its fields")]
pub enum ToZygote {
    /// Fork worker `worker`. Carries, in this order: the worker's link, its standard output, its standard error, its lifeline.
    Spawn { worker: u32 },
    /// Exit; workers that still run are left alone.
    Shutdown,
}

/// Zygote → gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each message's text names its fields")]
pub enum FromZygote<'a> {
    /// Ready to fork. Without `preloaded` every worker loads the application itself.
    Loaded { preloaded: bool, micros: u64 },
    /// The application does not load; the zygote exits after this. `message` is for people.
    LoadFailed { message: &'a [u8] },
    /// Worker `worker` runs as process `pid`. Carries its pidfd.
    Spawned { worker: u32, pid: u32 },
    /// `fork` failed with `errno`.
    SpawnFailed { worker: u32, errno: u32 },
    /// A worker was reaped.
    Exited { worker: u32, pid: u32, exit: Exit },
    /// A line for the log while the application loads, as a worker's.
    Log { level: LogLevel, message: &'a [u8], fields: &'a [u8] },
}

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The process exited with this status.
    Status(u32),
    /// This signal ended the process.
    Signal(u32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl ToZygote {
    /// Appends the message to a packet.
    pub fn encode(&self, packet: &mut Vec<u8>) {
        match *self {
            Self::Spawn { worker } => {
                packet.push(1);
                put_u32(packet, worker);
            }
            Self::Shutdown => packet.push(2),
        }
    }

    /// Takes one message off the front of a packet.
    pub fn decode(packet: &mut &[u8]) -> Result<Self, Malformed> {
        match take_u8(packet)? {
            1 => Ok(Self::Spawn { worker: take_u32(packet)? }),
            2 => Ok(Self::Shutdown),
            _ => Err(Malformed),
        }
    }
}

impl<'a> FromZygote<'a> {
    /// Appends the message to a packet.
    pub fn encode(&self, packet: &mut Vec<u8>) {
        match *self {
            Self::Loaded { preloaded, micros } => {
                packet.push(1);
                packet.push(u8::from(preloaded));
                packet.extend_from_slice(&micros.to_le_bytes());
            }
            Self::LoadFailed { message } => {
                packet.push(2);
                put_bytes(packet, message);
            }
            Self::Spawned { worker, pid } => {
                packet.push(3);
                put_u32(packet, worker);
                put_u32(packet, pid);
            }
            Self::SpawnFailed { worker, errno } => {
                packet.push(4);
                put_u32(packet, worker);
                put_u32(packet, errno);
            }
            Self::Exited { worker, pid, exit } => {
                packet.push(5);
                put_u32(packet, worker);
                put_u32(packet, pid);
                let (kind, number) = match exit {
                    Exit::Status(status) => (0, status),
                    Exit::Signal(signal) => (1, signal),
                };
                packet.push(kind);
                put_u32(packet, number);
            }
            Self::Log { level, message, fields } => {
                packet.push(6);
                put_log(packet, level, message, fields);
            }
        }
    }

    /// Takes one message off the front of a packet.
    pub fn decode(packet: &mut &'a [u8]) -> Result<Self, Malformed> {
        match take_u8(packet)? {
            1 => Ok(Self::Loaded { preloaded: take_bool(packet)?, micros: take_u64(packet)? }),
            2 => Ok(Self::LoadFailed { message: take_bytes(packet)? }),
            3 => Ok(Self::Spawned { worker: take_u32(packet)?, pid: take_u32(packet)? }),
            4 => Ok(Self::SpawnFailed { worker: take_u32(packet)?, errno: take_u32(packet)? }),
            5 => {
                let (worker, pid) = (take_u32(packet)?, take_u32(packet)?);
                let signalled = take_bool(packet)?;
                let number = take_u32(packet)?;
                let exit = if signalled { Exit::Signal(number) } else { Exit::Status(number) };
                Ok(Self::Exited { worker, pid, exit })
            }
            6 => take_log(packet).map(|(level, message, fields)| Self::Log { level, message, fields }),
            _ => Err(Malformed),
        }
    }
}
