//! How a run ends: the exit codes, each with one meaning.

use std::{fmt::Write as _, process::ExitCode};

use tonic::Code;

/// What the exit code of a run says. The numbers never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything that was asked for was done.
    Ok = 0,
    /// The work failed: a backup that FAILED, a comparison with differences, a fault.
    Failed = 1,
    /// The command line, or a field of the request, is wrong.
    Usage = 2,
    /// There is no such agent, backup, restore or file, or it is someone else's.
    NotFound = 3,
    /// The token is missing, wrong or expired, or its role may not do this.
    Denied = 4,
    /// The service cannot be reached or has no capacity now: trying again later may help.
    Unavailable = 5,
    /// Not possible in the present state: still running, already ended, already there.
    Refused = 6,
    /// A part could not be done: something is damaged, lost or locked; it is named, and the
    /// rest was done.
    Partial = 7,
    /// Interrupted with Ctrl-C.
    Interrupted = 130,
    /// Nobody reads the output any more.
    BrokenPipe = 141,
}

/// Every exit code with its meaning, in order: for `--help` and the documentation.
pub const TABLE: &[(Exit, &str)] = &[
    (Exit::Ok, "done"),
    (
        Exit::Failed,
        "the work failed, for example a backup is FAILED",
    ),
    (Exit::Usage, "wrong usage, or the service refused a field"),
    (
        Exit::NotFound,
        "no such agent, backup, restore or file (or not yours)",
    ),
    (
        Exit::Denied,
        "token missing, wrong or expired, or not allowed",
    ),
    (
        Exit::Unavailable,
        "the service cannot be reached or is overloaded; try again",
    ),
    (
        Exit::Refused,
        "not possible in the present state (running, ended, exists)",
    ),
    (
        Exit::Partial,
        "a part is damaged, lost or locked, and was named; the rest was done",
    ),
    (Exit::Interrupted, "interrupted with Ctrl-C"),
    (Exit::BrokenPipe, "the reader of the output went away"),
];

impl Exit {
    /// The exit code for an answer of the service.
    pub fn from_grpc(code: Code) -> Self {
        match code {
            Code::Ok => Self::Ok,
            Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Self::Usage,
            Code::NotFound => Self::NotFound,
            Code::Unauthenticated | Code::PermissionDenied => Self::Denied,
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => {
                Self::Unavailable
            }
            Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => Self::Refused,
            Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => Self::Failed,
        }
    }

    /// The number.
    pub fn number(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// The table as text, one line a code.
pub fn help() -> String {
    TABLE
        .iter()
        .fold(String::new(), |mut text, (exit, meaning)| {
            let _ = writeln!(text, "  {:>3}  {meaning}", exit.number());
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_grpc_code_has_an_exit_code() {
        for number in 0..=16 {
            let code = Code::from_i32(number);
            let exit = Exit::from_grpc(code);
            assert_eq!(exit == Exit::Ok, code == Code::Ok, "{code:?}");
            assert!(TABLE.iter().any(|(known, _)| *known == exit));
        }
    }

    #[test]
    fn the_numbers_are_documented_in_order() {
        let numbers: Vec<u8> = TABLE.iter().map(|(exit, _)| exit.number()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 130, 141]);
        assert!(help().contains("130  interrupted"));
    }
}
