//! Protocol statuses (FastCGI 1.0 §5.5), as END_REQUEST carries them.

/// The end of a request for the protocol (§5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolStatus {
    /// The request ran.
    RequestComplete,
    /// The request was refused: the server takes one request at a time on a connection.
    CantMpxConn,
    /// The request was refused: the server is out of some resource.
    Overloaded,
    /// The request was refused: the server does not know the role.
    UnknownRole,
}

impl ProtocolStatus {
    /// The status that `byte` stands for, if FastCGI 1.0 defines it.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::RequestComplete),
            1 => Some(Self::CantMpxConn),
            2 => Some(Self::Overloaded),
            3 => Some(Self::UnknownRole),
            _ => None,
        }
    }

    /// The byte that stands for the status.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::RequestComplete => 0,
            Self::CantMpxConn => 1,
            Self::Overloaded => 2,
            Self::UnknownRole => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_survive_a_round_trip() {
        for byte in 0..=255 {
            assert!(ProtocolStatus::from_byte(byte).is_none_or(|status| status.to_byte() == byte));
        }
    }
}
