//! What the three digests share (spec: comms, C11): many small things in one mail, once a slot, at the hour that the user chose.
//!
//! # Terminology
//!
//! * **slot** – the moment at which a user's digest is due: an hour of a local day or week. Its **period key** names that day or week.
//! * **delivery** – a row of `digest_deliveries`: this user's digest of this slot.
//! * **item** – what a digest carries: a notification, a message, a held e-mail; a row of `digest_items`.
//! * **page** – users, by ascending id, whose deliveries are written by one statement.
//!
//! # Invariants
//!
//! * **One delivery for a user and slot**: its key is unique, and only who inserts the row goes on. Ticks, retries and continuations
//!   may overlap as they like.
//! * **One digest for an item**: its key is unique, too.
//! * **Claim, items and mail are one statement**, which commits all of it or nothing ([`claim!`]).
//! * **A mail leaves after that commit**, through the ledger. What this process cannot send is `email-dispatch`'s.
//! * **A delivery follows its mail** ([`settle`]): sent or in doubt, it keeps its items; refused or failed, it gives them back to the
//!   next slot.
//! * **Time is the run's.** Windows and the guard against two digests in a row are measured by `asOf`, so that a past slot can be run
//!   again.
//!
//! # Ways to get this wrong
//!
//! * Local times in SQL: one unknown zone fails the page.
//! * Dropping the future of a mail that is being sent: its row stays claimed, and is in doubt.
//! * Reading items without locking them: what is mailed at once meanwhile is mailed twice.

mod page;
mod send;
mod settle;
mod slot;

use chrono::Duration;
use futures::future::LocalBoxFuture;
use jobs::{Job, SendDigests, Timestamp};
use services::mail::Category;
use sqlx::PgPool;

pub use page::{Claim, Page};
pub use send::send;
pub use settle::settle;
pub use slot::{Slot, latest};

#[doc(hidden)]
pub use sqlx;

/// The deliveries of a page, when they are written.
pub type Claiming<'a> = LocalBoxFuture<'a, Result<Vec<Claim>, sqlx::Error>>;

/// One of the digests.
pub struct Digest {
    /// The job that sends it.
    pub job: &'static Job<SendDigests>,
    /// Which of them it is.
    pub kind: Kind,
    /// The template of its mails; also the name of the job.
    pub template: &'static str,
    /// The preference that turns its mails off.
    pub category: Category,
    /// Writes the deliveries, items and mails of a page, with [`claim!`].
    pub claim: for<'a> fn(&'a PgPool, &'a Page) -> Claiming<'a>,
}

/// Which digest a row belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of notifications.
    Notification,
    /// Of messages.
    Message,
    /// Of e-mails that were held.
    Email,
}

impl Kind {
    /// The name in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Notification => "NOTIFICATION",
            Self::Message => "MESSAGE",
            Self::Email => "EMAIL",
        }
    }
}

/// How often a user gets a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frequency {
    /// Every day.
    Daily,
    /// Once a week.
    Weekly,
}

impl Frequency {
    /// The name in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Daily => "DAILY",
            Self::Weekly => "WEEKLY",
        }
    }

    /// The frequency of a name from SQL; the view has no other.
    fn named(name: &str) -> Self {
        if name == "WEEKLY" { Self::Weekly } else { Self::Daily }
    }

    /// A slot that was missed for so long is given up; what it would have carried goes into the next one.
    fn catch_up(self) -> Duration {
        match self {
            Self::Daily => Duration::hours(12),
            Self::Weekly => Duration::hours(48),
        }
    }
}

/// Whether the slot of a digest is due at `at`, and which.
pub fn due(frequency: Frequency, zone: chrono_tz::Tz, hour: u32, weekday: u32, at: Timestamp) -> Option<Slot> {
    latest(frequency, zone, hour, weekday, at).filter(|slot| at - slot.at < frequency.catch_up())
}
