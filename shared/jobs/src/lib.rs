//! What a job *is*: its declaration, its message, its numbers. No I/O, no AWS, no SQL.
//!
//! # Terminology
//!
//! * **job** – a kind of background work, declared once in [`catalog`]. One job is one Lambda function, one
//!   SQS queue and one dead-letter queue (DLQ), all named after it.
//! * **message** – the small JSON object that asks for one run of a job. Anything else about the work is in
//!   the database.
//! * **run** – the execution of one message, known by its *run key*; a row of `job_runs`. A run may take
//!   several **attempts**.
//! * **record** – one delivery of a message by SQS. The same message may be delivered any number of times.
//! * **outcome** – how an attempt ended: done, skipped, continued, deferred, retry or dead.
//! * **endpoint** – a function that a URL wakes, and not a queue; it leaves the work to a job.
//! * **slot** – the moment that a schedule stands for, `asOf`. A run works for its slot, not for "now".
//!
//! Everything that the infrastructure needs is derived from [`Spec`]: nobody types a visibility timeout.

pub mod catalog;
mod check;
mod endpoint;
mod id;
mod manifest;
mod message;
mod messages;
mod spec;
mod sweep;

pub use check::{Finding, Limits, check};
pub use endpoint::{Endpoint, check_endpoints};
pub use id::{Id, InvalidId};
pub use manifest::manifest;
pub use message::{Message, Timestamp, Undecodable, decode};
pub use messages::*;
pub use spec::{
    Backoff, Cron, History, Job, Load, Priority, Schedule, Spec, Topic, Use, days, mb, millis, minutes, secs,
};
pub use sweep::{Cursor, Position, Reached, Sweep};
