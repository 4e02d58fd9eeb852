//! Roles (FastCGI 1.0 §6), as BEGIN_REQUEST names them.

/// The role that the client asks the application for (§6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Answers a request, as a CGI program does.
    Responder,
    /// Decides whether a request may go on.
    Authorizer,
    /// Answers with a changed version of a file that comes along as DATA.
    Filter,
}

impl Role {
    /// The role that the number stands for, if FastCGI 1.0 defines it.
    pub fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Responder),
            2 => Some(Self::Authorizer),
            3 => Some(Self::Filter),
            _ => None,
        }
    }

    /// The number that stands for the role.
    pub fn to_number(self) -> u16 {
        match self {
            Self::Responder => 1,
            Self::Authorizer => 2,
            Self::Filter => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_survive_a_round_trip() {
        for number in 0..=255 {
            assert!(Role::from_number(number).is_none_or(|role| role.to_number() == number));
        }
    }
}
