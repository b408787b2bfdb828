//! Goes through everything that can be found, and writes what is wrong in the search index (spec: business, `search-index-update`).
//!
//! # Invariants
//!
//! * One reindex at a time: the row of `search_reindex_runs` that is RUNNING. Its cursor is what counts, whatever a message says.
//! * The rows of a page, its counts and the cursor behind it are one commit; the cursor moves only from where it was read. Whatever is
//!   killed in between is done again, or was done: every row is counted once, and two attempts cannot both go on.
//! * Pages are looked at side by side, which is all computing, and written in their order, which is little: most rows are right, and
//!   pages in which little is wrong are one commit.

mod page;
mod runs;

use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use jobs::{ReindexCursor, ReindexSearch, SearchEntity, catalog};
use runtime::{Failure, Outcome, Run, continued, done, skipped};
use serde::Serialize;

use self::runs::{Begun, Reindex};

/// How often the ledger hears of the progress.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// How far it is.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    entity: SearchEntity,
    done: i64,
    total: i64,
    per_second: i64,
    seconds_left: i64,
}

fn main() -> ExitCode {
    runtime::serve(catalog::SEARCH_INDEX_REINDEX, reindex)
}

async fn reindex(message: ReindexSearch, run: &mut Run) -> Outcome {
    let pool = run.context().database().pool();
    let mut reindex = match runs::begin(pool, &message, run.key()).await? {
        Begun::Here(reindex) => reindex,
        Begun::Over(report) => return done(report),
        Begun::Refused(reason) => return skipped(reason),
    };
    let mut pace = Pace::new(&reindex);
    loop {
        if !walk(&mut reindex, run, &mut pace).await? {
            return continued(ReindexSearch {
                run_id: reindex.id.parse().ok(),
                cursor: Some(ReindexCursor {
                    entity_type: reindex.at,
                    after: reindex.after,
                }),
                as_of: None,
                ..message
            });
        }
        page::settle(pool, &reindex).await?;
        match reindex.next() {
            Some(next) => runs::turn_to(pool, &mut reindex, next).await?,
            None => return done(runs::complete(pool, &reindex).await?),
        }
    }
}

/// Goes on through the present table. False when the time is up.
async fn walk(reindex: &mut Reindex, run: &Run, pace: &mut Pace) -> Result<bool, Failure> {
    let pool = run.context().database().pool();
    let mut pages = pin!(page::ahead(pool, reindex.at, reindex.after.clone(), reindex.batch_size));
    while let Some(page) = pages.try_next().await? {
        page::write(pool, reindex, page).await?;
        if pace.is_due() {
            run.progress(pace.progress(reindex)).await?;
        }
        if run.must_stop() {
            run.progress(pace.progress(reindex)).await?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// The pace of this attempt.
struct Pace {
    begun: Instant,
    noted: Option<Instant>,
    before: i64,
}

impl Pace {
    fn new(reindex: &Reindex) -> Self {
        Self {
            begun: Instant::now(),
            noted: None,
            before: reindex.processed,
        }
    }

    fn is_due(&mut self) -> bool {
        let due = self.noted.is_none_or(|noted| noted.elapsed() >= NOTE_EVERY);
        if due {
            self.noted = Some(Instant::now());
        }
        due
    }

    fn progress(&self, reindex: &Reindex) -> Progress {
        let here = (reindex.processed - self.before) as f64;
        let per_second = here / self.begun.elapsed().as_secs_f64().max(0.001);
        // Rows that came meanwhile are done, too.
        let total = reindex.total.max(reindex.processed);
        let left = (total - reindex.processed) as f64 / per_second.max(0.001);
        Progress {
            entity: reindex.at,
            done: reindex.processed,
            total,
            per_second: per_second.round() as i64,
            seconds_left: left.ceil() as i64,
        }
    }
}
