//! Tests of jobs: the built function on real protocols, with the world's failures injected on the wire.
//!
//! The function under test is the binary that is deployed, driven through the Lambda Runtime API ([`lambda`]), fed by
//! an SQS that keeps SQS's promises and no better ones ([`queue`]), with an SES and an S3 that fail on demand ([`mailbox`],
//! [`storage`]) and a real PostgreSQL ([`postgres`]). [`World`] holds them together for one test; [`faults`] runs a test once for every
//! failure at every call that travels. Production code knows nothing of all this.

mod analytics;
pub mod entities;
pub mod faults;
mod http;
pub mod lambda;
pub mod mailbox;
pub mod media;
pub mod people;
pub mod postgres;
pub mod queue;
pub mod storage;
pub mod sweep;
mod wire;
pub mod world;

pub use lambda::{Failure, Function, Lambda};
pub use mailbox::{Answer, Mail, Mailbox};
pub use queue::{Clock, Queue};
pub use storage::Storage;
pub use world::World;

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What chance starts from: `JOBS_SEED`, else always the same.
fn seed() -> u64 {
    std::env::var("JOBS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1)
}
