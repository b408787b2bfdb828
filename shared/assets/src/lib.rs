//! The end of assets: their objects go, and their rows unless something refers to them (spec: assets, `asset-cleanup` steps 3 to 6).
//!
//! # Terminology
//!
//! * **condemned** – an asset whose content is about to be destroyed: `purge_started_at` is set. Nobody gets it back any more.
//! * **blocked** – not condemned, because a licence or a dispute still needs it.
//! * **removed** – its row is gone, too.
//! * **tombstone** – a row without content, for what refers to it: licences, owners, metrics, versions made of it.
//!
//! # Invariants
//!
//! * **Mark, then objects, then row.** [`condemn`] is one transaction, [`settle`] another; between them, after the first commit,
//!   [`destroy`] deletes the objects. Whoever dies in between leaves a condemned row, which its sweep finds again.
//! * **A row outlives its objects**: it is what tells where they are. One object that S3 does not delete keeps it.
//! * **Whether a row may go is decided when it goes**, while it is locked against new references.
//! * **One audit event for each asset**, in the transaction that ends it.
//!
//! # Ways to get this wrong
//!
//! * Deciding once, at the beginning: a licence that is made meanwhile makes the deletion of the row fail, with its objects gone.
//! * A new table that refers to assets, and is not in [`settle`]: see `tests/references.rs`.
//! * Keys derived from what a row says of its past (names, URLs): whatever lies in an asset's folders is its own.

mod objects;
mod purge;

pub use objects::{Condemned, Destroyed, destroy};
pub use purge::{Decision, Settled, Subject, condemn, settle};
