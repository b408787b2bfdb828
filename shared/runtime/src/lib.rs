//! One Lambda from one handler.
//!
//! ```text
//! SQS batch ─► decode each record alone ─► claim (1 statement) ─► handlers ─► finish (1 statement) ─► failures only
//!                  │ bad                        │ done before / running elsewhere
//!                  └► DLQ with the reason       └► acknowledge / come back when its lease ends
//! ```
//!
//! # Invariants
//!
//! * **The ledger counts, SQS does not.** An attempt is written to `job_runs` before the handler sees the message. The receive
//!   count of SQS also rises with throttling and redelivery; it is a tripwire only.
//! * **One run, one runner.** A claim is a lease, stamped by the database's clock, longer than the function can live, with a fresh
//!   token. Every later write to the row carries the token: who lost the lease writes nothing more and acknowledges nothing.
//! * **Nothing vanishes.** An attempt that never finished is found by the next claim and counted as a crash. Crashes have their own
//!   cap, so that a message that kills its function ends in the DLQ like any other. A run that waits until SQS would give its
//!   message up goes on as a new message.
//! * **One record never takes another down.** Records are decoded one by one, panics are caught one by one, and records that have
//!   crashed a function before run after all others, alone: until it is their turn they are not running, in the ledger either, so
//!   that a crash counts for nobody else.
//! * **What leaves, leaves through the outbox.** Messages to queues – dead letters and continuations too – are rows of the transaction
//!   that decided on them, and are sent after its commit.
//! * **A message is acknowledged only when its fate is committed**, or when the ledger says that this happened before.
//!
//! # Ways to get this wrong
//!
//! * Acknowledging what was not looked at: an empty list of failures deletes the whole batch.
//! * Trusting a timer of this process for a lease: a frozen Lambda's clock stands still.
//! * Sending to a queue inside a handler, past the outbox: a crash between the two loses or doubles it.
//! * Text of a message, or of a panic, in a log: only the ledger and the DLQ hold data.
//! * A handler that is not safe to run twice: an attempt may die after its last write and before its finish.
//!
//! The ledger's own statements commit asynchronously (`synchronous_commit = off`, for that statement only) unless something leaves
//! with them: what a database crash can take back is the last instant of bookkeeping, and the message behind it is either still in
//! its queue or was handled.

#[cfg(panic = "abort")]
compile_error!("a panic must fail one message, not its batch: build with `panic = \"unwind\"`");

mod batch;
mod context;
mod endpoint;
mod event;
mod handler;
mod ledger;
mod outcome;
mod serve;
mod sweep;
mod telemetry;

pub use context::{Context, Delivery, Run, Tx};
pub use endpoint::{Request, Response, Sender, serve_endpoint};
pub use outcome::{Failure, Outcome, Success, continued, dead, deferred, done, retry, skipped};
pub use serve::{refuse, serve, serve_batch};
pub use sweep::{Page, Sweeper, Swept};
