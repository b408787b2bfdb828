//! The world outside: database, queues, mail. Adapters classify what went wrong ([`Error`]); nobody above them
//! looks at an SDK's errors. This crate knows no job.

mod database;
mod error;
mod iam;
pub mod local_time;
pub mod mail;
pub mod outbox;
mod queues;
mod redacted;

pub use database::Database;
pub use error::{Error, Kind};
pub use queues::{DEAD_LETTER_SUFFIX, Outgoing, Queues};
pub use redacted::Redacted;

/// A moment in UTC.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// The SDK configuration of this process: region, credentials and endpoints from the environment.
///
/// Retries are the runtime's and the ledger's business, so the SDK makes one attempt: a retried time-out may be
/// a second e-mail.
pub async fn sdk_config() -> aws_config::SdkConfig {
    use aws_config::retry::RetryConfig;
    use aws_config::timeout::TimeoutConfig;
    use std::time::Duration;

    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .read_timeout(Duration::from_secs(10))
        .build();
    aws_config::from_env()
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .load()
        .await
}
