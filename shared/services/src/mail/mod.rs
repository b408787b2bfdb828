//! E-mail: every mail of the platform is one row of the ledger `email_messages`, and nothing else calls SES.
//!
//! # Invariants
//!
//! * **Row first.** A mail is enqueued in the transaction of the business fact, under a business key; the key is
//!   unique, so two producers of one fact make one mail.
//! * **Claim, one call, mark.** A row is claimed (`PENDING` → `SENDING`) by a conditional update that is
//!   committed before SES is called, and SES is called once per claim, with the SDK's retries off.
//! * **Known not accepted, or in doubt.** Only an answer that says "not accepted" puts a row back. No answer
//!   means `UNCERTAIN`; nothing but the stream ESSENTIAL is ever sent again from there.
//! * **The gate is asked right before the claim**, in the order of spec comms C6; nothing of it is cached.
//! * **Pace and breaker are shared** by all functions through Postgres; both postpone without using an attempt.
//!
//! # Ways to get this wrong
//!
//! * Sending from inside the business transaction: a rollback cannot call the mail back.
//! * Letting the SDK retry: a time-out that was accepted becomes a second mail.
//! * Claiming more than is about to leave: what a crash leaves claimed is in doubt.

mod address;
mod breaker;
pub mod feedback;
mod gate;
mod journal;
mod ledger;
mod mailer;
mod pacing;
mod quiet_hours;
mod ses;
mod settings;
mod stream;
mod suppression;
pub mod templates;
mod unsubscribe;

pub use address::mailable;
pub use gate::{Audience, Gate, refusal};
pub use ledger::{Dispatched, Enqueued, Request, Status, Sweep, enqueue, expire, sweep, take_due};
pub use mailer::{Mailer, Options, Turn};
pub use settings::Settings;
pub use stream::{Category, Stream, UnknownName};
pub use suppression::{Reason, Suppression, suppress};
pub use unsubscribe::{Claim, Signer};

/// The time after which a mail of the stream is worthless, counted from its enqueueing (spec: comms, C1).
pub fn life(stream: Stream) -> chrono::Duration {
    match stream {
        Stream::Essential => chrono::Duration::hours(24),
        Stream::Notification => chrono::Duration::hours(48),
        Stream::Digest => chrono::Duration::hours(12),
        Stream::Marketing => chrono::Duration::days(7),
    }
}
