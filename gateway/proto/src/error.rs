//! The one error of all parsers: which field is wrong, and how.

/// Bytes that break the format. `what` names the field in the words of its specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The field ends before its length says.
    #[error("{what} is truncated")]
    Truncated { what: &'static str },
    /// The field is longer than its bound.
    #[error("{what} is longer than {limit} bytes")]
    TooLong { what: &'static str, limit: usize },
    /// The field holds a value that its specification does not allow.
    #[error("{what} has an illegal value")]
    Illegal { what: &'static str },
    /// Bytes follow where the message should have ended.
    #[error("{what} is followed by trailing bytes")]
    Trailing { what: &'static str },
    /// A required field is absent.
    #[error("{what} is missing")]
    Missing { what: &'static str },
}
