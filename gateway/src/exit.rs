//! Exit codes of `portcullis` and `portcullisd`, after sysexits(3), so that scripts can tell failures apart.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok,
    /// The command worked and its answer is no: findings in a check, a ticket that is not valid.
    Negative,
    /// The command line is wrong.
    Usage,
    /// Input is malformed: a ticket, an ICA file, an answer.
    Data,
    /// The daemon or the gateway cannot be reached.
    Unavailable,
    /// A fault of this program or of its surroundings, such as a full disk.
    Internal,
    /// The gateway answered and refused.
    Refused,
    /// The operating system or the daemon forbids it to this user.
    Permission,
    /// The configuration is wrong.
    Config,
}

/// What `--help` says of exit codes.
pub const HELP: &str = "Exit codes:
  0   success
  1   the answer is no: findings in a check, a ticket that is not valid
  64  the command line is wrong
  65  malformed input: a ticket, an ICA file, an answer
  69  the daemon or the gateway cannot be reached
  70  internal fault, or an output that cannot be written
  76  the gateway refused
  77  permission denied
  78  the configuration is wrong";

impl Exit {
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::Negative,
        Self::Usage,
        Self::Data,
        Self::Unavailable,
        Self::Internal,
        Self::Refused,
        Self::Permission,
        Self::Config,
    ];

    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Negative => 1,
            Self::Usage => 64,
            Self::Data => 65,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Refused => 76,
            Self::Permission => 77,
            Self::Config => 78,
        }
    }

    /// The word for this code in JSON errors.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Negative => "negative",
            Self::Usage => "usage",
            Self::Data => "data",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
            Self::Refused => "refused",
            Self::Permission => "permission",
            Self::Config => "config",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_documents_every_code() {
        for exit in Exit::ALL {
            assert!(HELP.lines().any(|line| line.trim_start().starts_with(&format!("{} ", exit.code()))));
        }
    }
}
