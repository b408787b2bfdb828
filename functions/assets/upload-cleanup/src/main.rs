//! Removes uploads that were abandoned, that no scan could accept, or that hold malware, and files that newer ones have replaced; revives
//! scans and steps whose message was lost (spec: assets, `upload-cleanup`, `asset-cleanup` step 7).
//!
//! # Invariants
//!
//! * **The row first, then the object**: a confirmation that comes late finds nothing to confirm. An object that an abandoned upload
//!   leaves behind in a crash is for `asset-cleanup`, which finds it by the deleted row.
//! * **What is purged is purged by the rules of all assets** (`assets`): marked, deleted, settled, and found again after a crash.
//! * **Messages leave with the update that counts them.** One that is sent twice is absorbed by its receiver's claim.
//! * **Nobody's upload is given up because the scanner is down**: see [`stuck`].

mod abandoned;
mod purge;
mod stuck;
mod superseded;

use std::process::ExitCode;

use assets::Subject;
use jobs::{Reached, Sweep, SweepUploads, UploadSweep, catalog};
use runtime::{Outcome, Page, Run, Sweeper};
use serde::{Deserialize, Serialize};

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Report {
    abandoned_cleaned: i64,
    stuck_requeued: i64,
    /// Uploads that were sent to the scanner three times, in vain.
    stuck_given_up: i64,
    steps_resent: i64,
    failed_cleaned: i64,
    infected_cleaned: i64,
    superseded_cleaned: i64,
    /// Failed uploads that a licence or a dispute keeps.
    blocked: i64,
    /// Bytes of the objects that are gone.
    storage_freed: i64,
    /// Objects that stay, and keys and ids that are none.
    errors: i64,
}

/// All steps, and the sweep that each belongs to.
const STEPS: [(&str, UploadSweep); 6] = [
    ("abandoned", UploadSweep::Abandoned),
    ("stuck", UploadSweep::Stuck),
    ("steps", UploadSweep::Stuck),
    ("failed", UploadSweep::Failed),
    ("infected", UploadSweep::Infected),
    ("superseded", UploadSweep::Superseded),
];

fn main() -> ExitCode {
    runtime::serve(catalog::UPLOAD_CLEANUP, clean)
}

async fn clean(message: SweepUploads, run: &mut Run) -> Outcome {
    let run = &*run;
    let storage = run.context().storage()?;
    let mut sweep = Sweeper::<Report>::begin(run, only(message), 200).await?;
    while let Some(uploads) = sweep.page("abandoned", abandoned::reject).await {
        if let Err(error) = abandoned::delete(&mut sweep, storage, &uploads).await {
            // While S3 is away, no more uploads lose their rows.
            sweep.fail(error);
            break;
        }
    }
    sweep.step("stuck", stuck::scans).await;
    sweep.step("steps", stuck::steps).await;
    let is_dry_run = sweep.is_dry_run();
    for (step, subject) in [("failed", Subject::Asset), ("infected", Subject::InfectedFile)] {
        let purge = purge::Purge {
            storage,
            subject,
            is_dry_run,
        };
        let mut is_more = true;
        while is_more {
            let claim = async |page: &mut Page<'_, Report>| purge.claim(page).await;
            let destroy = async |decision| purge.destroy(decision).await;
            let settle = async |page: &mut Page<'_, Report>, purged| purge.settle(page, purged).await;
            is_more = sweep.page_with_effects(step, claim, destroy, settle).await;
        }
    }
    let destroy = async |variants: Vec<_>| assets::discard(storage, &variants, is_dry_run).await;
    while sweep
        .page_with_effects("superseded", superseded::claim, destroy, superseded::settle)
        .await
    {}
    sweep.finish()
}

/// One sweep alone is all of them with the others done. So the message that asks for the rest of a run need not name it.
fn only(message: SweepUploads) -> Sweep {
    let wanted = message.sweep;
    let mut sweep = Sweep::from(message);
    if let Some(wanted) = wanted {
        let others = STEPS.iter().filter(|(_, of)| *of != wanted);
        let steps = &mut sweep.cursor.get_or_insert_default().steps;
        steps.extend(others.map(|(step, _)| ((*step).to_owned(), Reached::Done)));
    }
    sweep
}
