use std::time::Duration;

use jobs::Timestamp;
use serde::Serialize;
use serde_json::Value;
use services::Kind;

/// How an attempt ended. `?` turns an error of a service into the failure that it calls for.
pub type Outcome = Result<Success, Failure>;

/// The message is settled.
#[derive(Clone, Debug, PartialEq)]
pub enum Success {
    /// The work was done; the report says what it was.
    Done(Value),
    /// There was nothing to do, for this reason.
    Skipped(String),
    /// A part was done; this message asks for the rest.
    Continued(Value),
}

/// The message is not settled, or never will be.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// Not now: a circuit is open, somebody holds the lease. Uses no attempt.
    Deferred {
        /// When to come back.
        until: Timestamp,
        /// Why.
        reason: String,
    },
    /// It failed this time. Uses an attempt; after the last one the run is dead.
    Retry {
        /// What failed, with its causes.
        error: String,
        /// Overrides the job's backoff.
        after: Option<Duration>,
    },
    /// It never works. The message goes to the DLQ with the reason.
    Dead {
        /// What a person reads.
        reason: String,
    },
}

impl Failure {
    /// What a person reads.
    pub fn text(&self) -> &str {
        match self {
            Self::Deferred { reason, .. } | Self::Dead { reason } => reason,
            Self::Retry { error, .. } => error,
        }
    }
}

/// The work was done.
pub fn done(report: impl Serialize) -> Outcome {
    Ok(Success::Done(serde_json::to_value(report).unwrap_or_default()))
}

/// There was nothing to do.
pub fn skipped(reason: impl Into<String>) -> Outcome {
    Ok(Success::Skipped(reason.into()))
}

/// A part was done; `next`, a message of the same job, asks for the rest.
pub fn continued(next: impl Serialize) -> Outcome {
    Ok(Success::Continued(serde_json::to_value(next).unwrap_or_default()))
}

/// Not now, and no attempt used.
pub fn deferred(until: Timestamp, reason: impl Into<String>) -> Outcome {
    Err(Failure::Deferred {
        until,
        reason: reason.into(),
    })
}

/// Again, after the job's backoff.
pub fn retry(error: impl Into<String>) -> Outcome {
    Err(Failure::Retry {
        error: error.into(),
        after: None,
    })
}

/// Never.
pub fn dead(reason: impl Into<String>) -> Outcome {
    Err(Failure::Dead { reason: reason.into() })
}

impl From<services::Error> for Failure {
    fn from(error: services::Error) -> Self {
        match error.kind {
            Kind::Permanent => Self::Dead { reason: error.chain() },
            Kind::Throttled(after) => Self::Deferred {
                until: chrono::Utc::now() + after,
                reason: error.chain(),
            },
            // In doubt is safe to run again: every effect is guarded by the state that it leaves behind.
            Kind::Transient | Kind::InDoubt => Self::Retry {
                error: error.chain(),
                after: None,
            },
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        services::Error::from(error).into()
    }
}
