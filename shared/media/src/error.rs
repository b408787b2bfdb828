use std::fmt;

/// Why a file could not be processed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is the file.
    #[error("{fault}: {detail}")]
    File {
        /// What is wrong with it.
        fault: Fault,
        /// What the tool said, made legible and short; without paths.
        detail: String,
    },
    /// It is this machine: no space, no process to be had.
    #[error("{0}")]
    Machine(String),
}

/// What can be wrong with a file (spec: assets 0.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nothing that can be decoded.
    CorruptMedia,
    /// More pixels than anybody may have.
    ImageTooLarge,
    /// Not a stream of the kind that is asked for.
    NoStream,
    /// A tool took too long, or more than it may have.
    ToolTimeout,
    /// What came out is not what was asked for.
    BadOutput,
}

impl Fault {
    /// As ledgers have it.
    pub const fn code(self) -> &'static str {
        match self {
            Self::CorruptMedia => "CORRUPT_MEDIA",
            Self::ImageTooLarge => "IMAGE_TOO_LARGE",
            Self::NoStream => "NO_STREAM",
            Self::ToolTimeout => "TOOL_TIMEOUT",
            Self::BadOutput => "BAD_OUTPUT",
        }
    }

    /// Whether a second try may end otherwise: a busy machine is slow, too.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::ToolTimeout | Self::BadOutput)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Error {
    pub(crate) fn file(fault: Fault, detail: impl Into<String>) -> Self {
        Self::File {
            fault,
            detail: detail.into(),
        }
    }

    pub(crate) fn machine(what: &str, error: &std::io::Error) -> Self {
        Self::Machine(format!("{what}: {error}"))
    }
}
