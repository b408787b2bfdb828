//! What all sweeps share: pages, resumption, continuation, dry run, report.
//!
//! A sweep is a list of *steps*; a step walks over the rows that a rule calls dead, in the order of a time and an id, page by page.
//!
//! # Invariants
//!
//! * **One page, one transaction**, with how far the sweep has come (`job_runs.progress`). A run that was killed goes on after its last
//!   page, and its report counts every row once.
//! * **Fenced.** The progress is written under the lease: a page of a run that lost it is rolled back.
//! * **Rows are walked by key.** A page begins behind the last row of the one before. What was deleted stays in the index until it is
//!   vacuumed; whoever begins at the oldest row again walks over all of it, every time.
//! * **Rows that somebody holds are passed over**, not waited for: a person's login waits for no sweep, and two sweeps at once share
//!   the work. A page that meets such a row gives up after a moment and begins again with `SKIP LOCKED`; to lock each row before it is
//!   deleted costs as much as to delete it. The next slot takes what was passed over.
//! * **A dry run is the same statements, rolled back.** What it counts is what the sweep would do.
//! * **Steps are independent.** One that fails keeps no other from its work; the run is tried again for its sake.
//! * **`as_of` is chosen once** and is the same in all attempts and continuations.
//!
//! # Ways to get this wrong
//!
//! * A rule with a clock of its own (`now()`): it changes from page to page, and a slot of last week is swept by today's rule.
//! * Effects outside the database in a step: they belong after the commit. After that of [`Sweeper::page`] they are lost in a crash;
//!   [`Sweeper::page_with_effects`] repeats them.
//! * A rule that is true of a row again after the step has treated it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use jobs::{Cursor, Position, Reached, Sweep, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use services::{Error, Kind};
use sqlx::PgExecutor;
use sqlx::types::Json;
use tokio::time::Instant;

use crate::context::{Run, Tx};
use crate::outcome::{Failure, Outcome, continued, done};

/// How a page begins. A plan made for an empty table would scan a full one. Who meets a row that somebody holds gives up after a moment,
/// and is patient when it tries again.
///
/// Commits of plain steps (`is_loose`) do not wait for the disk: what a crash of the database takes back, it takes back together with
/// the progress.
const fn begin(is_loose: bool, is_contended: bool) -> &'static str {
    macro_rules! begin {
        ($wait:literal, $commit:literal) => {
            concat!(
                "BEGIN; SET LOCAL lock_timeout = '",
                $wait,
                "'; SET LOCAL plan_cache_mode = force_custom_plan",
                $commit
            )
        };
    }
    match (is_loose, is_contended) {
        (true, false) => begin!("100ms", "; SET LOCAL synchronous_commit = off"),
        (true, true) => begin!("2s", "; SET LOCAL synchronous_commit = off"),
        (false, false) => begin!("100ms", ""),
        (false, true) => begin!("2s", ""),
    }
}

/// A page that takes less time may be larger …
const QUICK: Duration = Duration::from_millis(100);
/// … and one that takes more must be smaller.
const SLOW: Duration = Duration::from_millis(400);
/// How long a failed page waits before it is tried once more.
const PAUSE: Duration = Duration::from_millis(100);

/// One attempt of a sweep whose report is an `R`.
pub struct Sweeper<'r, R> {
    run: &'r Run,
    as_of: Timestamp,
    batch_size: Option<u32>,
    /// Rows of the next page.
    limit: i64,
    /// The least and the most of them.
    limits: RangeInclusive<i64>,
    dry_run: bool,
    pages: Option<u32>,
    pages_left: u32,
    steps: BTreeMap<String, Reached>,
    report: R,
    /// No page begins any more: time is up, or the lease is lost.
    stopped: bool,
    /// The page is tried once more.
    contended: bool,
    failure: Option<Failure>,
}

/// One page of a step: a transaction, and what its rule may depend on.
pub struct Page<'r, R> {
    /// The transaction.
    pub tx: Tx<'r>,
    /// "Now".
    pub as_of: Timestamp,
    /// The most rows to take.
    pub limit: i64,
    /// Where the page begins.
    pub after: Position,
    /// The page failed before, perhaps because somebody holds one of its rows: pass over those.
    pub contended: bool,
    /// What the sweep has done so far.
    pub report: R,
}

/// What a page took. Fewer rows than it may have are the end of its step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Rows that were looked at and are behind us.
    pub found: i64,
    /// Rows that were treated.
    pub gone: i64,
    /// The last row that was found: its time …
    pub at: Timestamp,
    /// … and its id.
    pub id: String,
}

impl Swept {
    /// Rows that were all treated, and the last of them.
    pub fn all(found: usize, last: Option<(Timestamp, String)>) -> Self {
        let found = found as i64;
        last.map_or_else(Self::default, |(at, id)| Self {
            found,
            gone: found,
            at,
            id,
        })
    }
}

/// Deletes one page of dead rows, oldest first: `delete_page!(page, table, time, id, rule)`, all SQL, with `$1` = `as_of`.
///
/// An index on the time and the id, best partial by what is constant in the rule, keeps a page from looking at the living.
#[macro_export]
macro_rules! delete_page {
    ($page:expr, $table:tt, $at:tt, $id:tt, $rule:tt) => {{
        let page = &mut *$page;
        if page.contended {
            sqlx::query_as!(
                $crate::Swept,
                "WITH sweep AS (
                     SELECT $1::timestamptz AS as_of
                 ), dead AS MATERIALIZED (
                     SELECT ctid, " + $at + " AS at, " + $id + " AS id FROM " + $table + "
                     WHERE (" + $rule + ") AND (" + $at + ", " + $id + ") > ($2, $3)
                     ORDER BY " + $at + ", " + $id + " LIMIT $4 FOR UPDATE SKIP LOCKED
                 ), gone AS (
                     DELETE FROM " + $table + " WHERE ctid = ANY (ARRAY(SELECT ctid FROM dead)) AND (" + $rule + ") RETURNING 1
                 )
                 SELECT count(*) OVER () AS \"found!\", (SELECT count(*) FROM gone) AS \"gone!\", at AS \"at!\", id AS \"id!\"
                 FROM dead ORDER BY at DESC, id DESC LIMIT 1",
                page.as_of,
                page.after.at,
                page.after.id,
                page.limit,
            )
            .fetch_optional(&mut *page.tx)
            .await
            .map(Option::unwrap_or_default)
        } else {
            sqlx::query_as!(
                $crate::Swept,
                "WITH sweep AS (
                     SELECT $1::timestamptz AS as_of
                 ), last AS MATERIALIZED (
                     SELECT " + $at + " AS at, " + $id + " AS id FROM " + $table + "
                     WHERE (" + $rule + ") AND (" + $at + ", " + $id + ") > ($2, $3)
                     ORDER BY " + $at + ", " + $id + " OFFSET $4::bigint - 1 LIMIT 1
                 ), gone AS (
                     DELETE FROM " + $table + " WHERE (" + $rule + ") AND (" + $at + ", " + $id + ") > ($2, $3)
                       AND (" + $at + ", " + $id + ") <= (coalesce((SELECT at FROM last), 'infinity'), coalesce((SELECT id FROM last), ''))
                     RETURNING 1
                 )
                 SELECT coalesce((SELECT $4 FROM last), (SELECT count(*) FROM gone)) AS \"found!\", (SELECT count(*) FROM gone) AS \"gone!\",
                        coalesce((SELECT at FROM last), $2) AS \"at!\", coalesce((SELECT id FROM last), $3) AS \"id!\"",
                page.as_of,
                page.after.at,
                page.after.id,
                page.limit,
            )
            .fetch_one(&mut *page.tx)
            .await
        }
    }};
}

impl<'r, R: Clone + Default + PartialEq + Serialize + DeserializeOwned> Sweeper<'r, R> {
    /// Begins a sweep, or goes on where an earlier attempt or run has got to. `batch_size` is what the message leaves open: pages of
    /// plain steps grow from there while they are quick, to four times as much.
    pub async fn begin(run: &'r Run, message: Sweep, batch_size: u32) -> Result<Self, Failure> {
        let (now, progress) = load(run).await?;
        let progress = progress.unwrap_or_else(|| Progress {
            as_of: message.as_of.unwrap_or(now),
            cursor: message.cursor.unwrap_or_default(),
        });
        let limits = match message.batch_size {
            Some(size) => size.into()..=size.into(),
            None => batch_size.into()..=(4 * batch_size).into(),
        };
        Ok(Self {
            run,
            as_of: progress.as_of,
            batch_size: message.batch_size,
            limit: *limits.start(),
            limits,
            dry_run: message.dry_run,
            pages: message.pages,
            pages_left: message.pages.unwrap_or(u32::MAX),
            report: report(progress.cursor.report)?,
            steps: progress.cursor.steps,
            stopped: false,
            contended: false,
            failure: None,
        })
    }

    /// "Now" for every rule of the sweep.
    pub fn as_of(&self) -> Timestamp {
        self.as_of
    }

    /// Whether nothing is to be changed; effects outside the database must ask.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// What the sweep has done so far. What is added here after a page is saved with the next one, or at the end.
    pub fn report(&mut self) -> &mut R {
        &mut self.report
    }

    /// Does a step: pages until one is short, or until it is time to stop. Its name is its place in the cursor: keep it.
    pub async fn step(&mut self, name: &str, work: impl AsyncFn(&mut Page<'_, R>) -> Result<Swept, Error>) {
        let work = async |page: &mut Page<'_, R>| Ok((work(page).await?, ()));
        let page = async |sweep: &mut Self, after: Position| {
            let begun = Instant::now();
            if sweep.contended {
                sweep.limit = *sweep.limits.start();
            }
            sweep.do_page(name, after, true, &work).await?;
            sweep.limit = sweep.next_limit(begun.elapsed());
            Ok(())
        };
        while self.try_page(name, &page).await.is_some() {}
        self.limit = *self.limits.start();
    }

    /// Does one page of a step and gives what it leaves to be done after its commit; `None` when the step is over, or must stop.
    pub async fn page<T>(
        &mut self,
        name: &str,
        work: impl AsyncFn(&mut Page<'_, R>) -> Result<(Swept, T), Error>,
    ) -> Option<T> {
        let page = async |sweep: &mut Self, after: Position| sweep.do_page(name, after, false, &work).await;
        self.try_page(name, page).await
    }

    /// Does one page of a step in two transactions with effects outside the database between them: `claim` marks what is to be treated,
    /// `act` treats it, `settle` writes down what came of it, and counts. Whether there may be another page; the step is over, or must
    /// stop, when there is none.
    ///
    /// The page is behind us when `settle` is committed. Whoever dies before that claims it again: the rule must find what is marked
    /// and not settled, and effects must bear to be repeated. A dry run is one transaction, rolled back.
    pub async fn page_with_effects<T, U>(
        &mut self,
        name: &str,
        claim: impl AsyncFn(&mut Page<'_, R>) -> Result<(Swept, T), Error>,
        act: impl AsyncFn(T) -> Result<U, Error>,
        settle: impl AsyncFn(&mut Page<'_, R>, U) -> Result<(), Error>,
    ) -> bool {
        let page = async |sweep: &mut Self, after: Position| {
            let mut page = sweep.begin_page(after.clone(), false).await?;
            let (swept, claimed) = claim(&mut page).await?;
            let (mut page, outcome) = if swept.found > 0 && !sweep.dry_run {
                let progress = sweep.progress(&sweep.steps, &sweep.report);
                close(sweep.run, page.tx, false, progress).await?;
                let outcome = act(claimed).await?;
                (sweep.begin_page(after, false).await?, outcome)
            } else {
                (page, act(claimed).await?)
            };
            settle(&mut page, outcome).await?;
            sweep.end_page(name, page, swept).await
        };
        self.try_page(name, page).await.is_some()
    }

    /// Fails the run in the end, for the sake of what could not be done after a page. Other steps go on.
    pub fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error.into());
    }

    /// Ends the run: with the report, with a message that asks for the rest, or with the first step's failure.
    pub fn finish(self) -> Outcome {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if self.stopped {
            return continued(Sweep {
                as_of: Some(self.as_of),
                batch_size: self.batch_size,
                pages: self.pages,
                dry_run: self.dry_run,
                cursor: Some(cursor(self.steps, &self.report)),
            });
        }
        done(Report {
            as_of: self.as_of,
            dry_run: self.dry_run,
            report: self.report,
        })
    }

    /// A page that failed, but may work, is tried once more.
    async fn try_page<T>(
        &mut self,
        name: &str,
        page: impl AsyncFn(&mut Self, Position) -> Result<T, Error>,
    ) -> Option<T> {
        for is_last in [false, true] {
            let after = self.next(name)?;
            self.contended = is_last;
            let error = match page(self, after).await {
                Ok(left) => return Some(left),
                Err(error) => error,
            };
            let again = error.kind == Kind::Transient && !is_last;
            if again {
                tracing::warn!(step = name, error = error.chain(), "a page is tried again");
                tokio::time::sleep(PAUSE).await;
            } else {
                self.failure.get_or_insert(error.into());
            }
            // Whether the page was committed, only the ledger knows; without it no step can go on.
            if let Err(error) = self.reload().await {
                self.failure.get_or_insert(error.into());
                self.stopped = true;
            }
            if !again {
                break;
            }
        }
        None
    }

    /// Where the next page of a step begins.
    fn next(&mut self, name: &str) -> Option<Position> {
        let after = match self.steps.get(name) {
            Some(Reached::Done) => return None,
            Some(Reached::After(position)) => position.clone(),
            None => Position::start(),
        };
        self.stopped |= self.pages_left == 0 || self.run.must_stop();
        self.pages_left = self.pages_left.saturating_sub(1);
        (!self.stopped).then_some(after)
    }

    /// A page costs as much as four round trips beside its rows: as few as may be, and none so long that somebody would notice.
    fn next_limit(&self, took: Duration) -> i64 {
        let limit = if took < QUICK {
            self.limit * 2
        } else if took > SLOW {
            self.limit / 2
        } else {
            self.limit
        };
        limit.clamp(*self.limits.start(), *self.limits.end())
    }

    async fn do_page<T>(
        &mut self,
        name: &str,
        after: Position,
        is_loose: bool,
        work: &impl AsyncFn(&mut Page<'_, R>) -> Result<(Swept, T), Error>,
    ) -> Result<T, Error> {
        let mut page = self.begin_page(after, is_loose).await?;
        let (swept, left) = work(&mut page).await?;
        self.end_page(name, page, swept).await?;
        Ok(left)
    }

    async fn begin_page(&self, after: Position, is_loose: bool) -> Result<Page<'r, R>, Error> {
        Ok(Page {
            tx: self.run.begin_with(begin(is_loose, self.contended)).await?,
            as_of: self.as_of,
            limit: self.limit,
            after,
            contended: self.contended,
            report: self.report.clone(),
        })
    }

    /// Commits a page and how far the sweep has come with it.
    async fn end_page(&mut self, name: &str, page: Page<'r, R>, swept: Swept) -> Result<(), Error> {
        let mut steps = self.steps.clone();
        let reached = match swept.found < self.limit {
            true => Reached::Done,
            false => Reached::After(Position {
                at: swept.at,
                id: swept.id,
            }),
        };
        steps.insert(name.to_owned(), reached);
        // Of a page that found nothing nothing need be remembered.
        let changed = swept.found > 0 || page.report != self.report;
        let progress = changed.then(|| self.progress(&steps, &page.report)).flatten();
        close(self.run, page.tx, self.dry_run, progress).await?;
        (self.steps, self.report) = (steps, page.report);
        Ok(())
    }

    fn progress(&self, steps: &BTreeMap<String, Reached>, report: &R) -> Option<Value> {
        let progress = Progress {
            as_of: self.as_of,
            cursor: cursor(steps.clone(), report),
        };
        serde_json::to_value(progress).ok()
    }

    async fn reload(&mut self) -> Result<(), Error> {
        if let (_, Some(progress)) = load(self.run).await? {
            self.steps = progress.cursor.steps;
            self.report = report(progress.cursor.report)?;
        }
        Ok(())
    }
}

/// What `job_runs.progress` is of a sweep.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    as_of: Timestamp,
    #[serde(flatten)]
    cursor: Cursor,
}

/// What a sweep leaves in the ledger.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<R> {
    as_of: Timestamp,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    #[serde(flatten)]
    report: R,
}

fn cursor(steps: BTreeMap<String, Reached>, report: &impl Serialize) -> Cursor {
    Cursor {
        steps,
        report: serde_json::to_value(report).unwrap_or_default(),
    }
}

fn report<R: Default + DeserializeOwned>(report: Value) -> Result<R, Error> {
    match report {
        Value::Null => Ok(R::default()),
        report => serde_json::from_value(report)
            .map_err(|error| Error::permanent("the cursor has no report of this job").caused_by(error)),
    }
}

/// The database's clock, and how far an earlier attempt of the run has come.
fn load(run: &Run) -> LocalBoxFuture<'_, Result<(Timestamp, Option<Progress>), Error>> {
    async {
        let row = sqlx::query!(
            r#"SELECT clock_timestamp() AS "now!", progress AS "progress: Json<Progress>"
               FROM job_runs WHERE job = $1 AND run_key = $2 AND lease_token = $3"#,
            run.spec.name(),
            run.run_key,
            &*run.token,
        )
        .fetch_optional(run.context.database().pool())
        .await?
        .ok_or_else(lost)?;
        Ok((row.now, row.progress.map(|progress| progress.0)))
    }
    .boxed_local()
}

/// Ends a page: all of it counts, or nothing.
fn close<'a>(
    run: &'a Run,
    mut tx: Tx<'a>,
    dry_run: bool,
    progress: Option<Value>,
) -> LocalBoxFuture<'a, Result<(), Error>> {
    async move {
        if dry_run {
            tx.rollback().await?;
            return save(run, run.context.database().pool(), progress).await;
        }
        save(run, &mut *tx, progress).await?;
        if tx.has_messages() {
            sqlx::query("SET LOCAL synchronous_commit = on")
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await
    }
    .boxed_local()
}

async fn save(run: &Run, executor: impl PgExecutor<'_>, progress: Option<Value>) -> Result<(), Error> {
    let Some(progress) = progress else { return Ok(()) };
    let saved = sqlx::query!(
        "UPDATE job_runs SET progress = $4 WHERE job = $1 AND run_key = $2 AND lease_token = $3",
        run.spec.name(),
        run.run_key,
        &*run.token,
        progress,
    )
    .execute(executor)
    .await?;
    if saved.rows_affected() == 1 {
        Ok(())
    } else {
        Err(lost())
    }
}

fn lost() -> Error {
    Error::transient("the lease was lost to another attempt")
}
