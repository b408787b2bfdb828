//! What jobs about assets share: the ledger of their steps (spec: assets 0.3 to 0.5), what is made of them, and their end
//! (`asset-cleanup` steps 3 to 6).
//!
//! # Terminology
//!
//! * **step** – one thing that is to be made of an asset: a row of `asset_processing_steps`. Its **lease** is held while it is made.
//! * **original** – what the scan has promoted: bytes that nobody can change any more.
//! * **variant** – a file made of an original; one of each name is **live**, older ones are **superseded**.
//! * **condemned** – an asset whose content is about to be destroyed: `purge_started_at` is set. Nobody gets it back any more.
//! * **blocked** – not condemned, because a licence or a dispute still needs it.
//! * **removed** – its row is gone, too.
//! * **tombstone** – a row without content, for what refers to it: licences, owners, metrics, versions made of it.
//!
//! # Invariants of making
//!
//! * **One run at a time makes a step**: it holds the lease, and what it writes at its end is written only while it does.
//! * **What is not scanned is not opened**: the bytes that come are those that were scanned, or the step ends.
//! * **The object, then the row.** A variant is recorded after it was stored, under a key that no other content ever has: whoever dies in
//!   between has left what the next attempt stores again.
//! * **A file that is to blame settles its message**; only what may end otherwise is tried again.
//! * **The last step that an asset needs ends its processing**, whichever that is, and just once.
//!
//! # Invariants of the end
//!
//! * **Mark, then objects, then row.** [`condemn`] is one transaction, [`settle`] another; between them, after the first commit,
//!   [`destroy`] deletes the objects. Whoever dies in between leaves a condemned row, which its sweep finds again.
//! * **A row outlives its objects**: it is what tells where they are. One object that S3 does not delete keeps it.
//! * **Whether a row may go is decided when it goes**, while it is locked against new references.
//! * **One audit event for each asset**, in the transaction that ends it.
//!
//! # Ways to get this wrong
//!
//! * A step whose failure is only returned: its row says that somebody is at it until the lease ends. [`Step::stop`] says otherwise.
//! * Deciding once, at the beginning: a licence that is made meanwhile makes the deletion of the row fail, with its objects gone.
//! * A new table that refers to assets, and is not in [`settle`]: see `tests/references.rs`.
//! * Keys derived from what a row says of its past (names, URLs): whatever lies in an asset's folders is its own.

mod objects;
mod original;
mod purge;
mod step;
mod superseded;
mod variant;

pub use objects::{Condemned, Destroyed, destroy};
pub use purge::{Decision, Settled, Subject, condemn, settle};
pub use step::{Asset, Claim, Ended, Step, StepKind, Stop};
pub use superseded::{Discarded, Superseded, discard, superseded};
pub use variant::Variant;
