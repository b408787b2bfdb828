//! The world outside: database, queues, mail, storage. Adapters classify what went wrong ([`Error`]); nobody above them
//! looks at an SDK's errors. This crate knows no job.

mod aws;
mod database;
mod error;
mod iam;
pub mod local_time;
pub mod mail;
pub mod outbox;
mod queues;
mod redacted;
pub mod storage;

pub use aws::Aws;
pub use database::Database;
pub use error::{Error, Kind};
pub use queues::{DEAD_LETTER_SUFFIX, Outgoing, Queues};
pub use redacted::Redacted;
pub use storage::Storage;

/// A moment in UTC.
pub type Timestamp = chrono::DateTime<chrono::Utc>;
