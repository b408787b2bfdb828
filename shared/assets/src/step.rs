use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use jobs::{ProcessAsset, ScanAsset, ScanReason, Timestamp, catalog};
use runtime::{Failure, Outcome, Run, Tx, dead, deferred, done, retry, skipped};
use serde_json::{Value, json};
use services::Error;
use services::storage::ObjectKey;

/// How long a lease outlives the invocation that holds it.
const GRACE: Duration = Duration::from_secs(60);
/// When an asset comes back whose scan has not ended.
const SCAN_TAKES: chrono::Duration = chrono::Duration::seconds(60);
/// As the ledger has room for.
const LONGEST_DETAIL: usize = 500;

/// What a job makes of assets: rows of `asset_processing_steps`.
#[derive(Clone, Copy, Debug)]
pub struct StepKind {
    /// Its name there.
    pub step: &'static str,
    /// Types of assets that it is made of.
    pub of: &'static [&'static str],
}

/// An asset that may be processed, and what its step needs to know of it.
#[derive(Clone, Debug)]
pub struct Asset {
    /// The row of `ip_assets`.
    pub id: String,
    /// `VIDEO`, `AUDIO` and so on.
    pub kind: String,
    /// As the scan has detected it.
    pub mime_type: String,
    /// Where its original is.
    pub original: ObjectKey,
    /// The hash of what was scanned, in hex.
    pub sha256: String,
}

/// A claimed step: nobody else does it while the lease lasts.
#[derive(Debug)]
pub struct Step {
    /// Of what.
    pub asset: Asset,
    kind: StepKind,
    variant: String,
    token: String,
}

/// What a message finds.
#[derive(Debug)]
pub enum Claim {
    /// It is ours to do.
    Claimed(Box<Step>),
    /// There is nothing to do, or not now.
    Settled(Outcome),
}

/// Why a step was not done (spec: assets 0.7).
#[derive(Clone, Debug, PartialEq)]
pub enum Stop {
    /// The file is to blame: the step has FAILED for good, and the message is settled.
    Unusable {
        /// `reason_code`.
        code: &'static str,
        /// What a person reads.
        detail: String,
        /// Whether the next attempt may end otherwise.
        is_retryable: bool,
    },
    /// There is nothing to be made of it: SKIPPED.
    Skipped(&'static str),
    /// What lies there was never scanned: the step has FAILED until the next verdict, which sends its message again.
    Unscanned(&'static str),
    /// It is not the file. What the message does next says what the ledger has.
    Failed {
        /// `reason_code`, where there is one.
        code: Option<&'static str>,
        /// Of the message.
        failure: Failure,
    },
}

/// What became of a step that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The ledger says so: what was made may be recorded.
    Succeeded,
    /// Nothing of it counts, for this reason.
    Discarded(&'static str),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Failure::from(error).into()
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed { code: None, failure }
    }
}

impl Step {
    /// Takes a step on, if there is an asset that may be processed, and nobody has done it yet or is at it.
    ///
    /// # Errors
    /// Those of the database; a key that is none.
    pub fn begin<'a>(
        run: &'a Run,
        kind: StepKind,
        variant: &'a str,
        message: &'a ProcessAsset,
    ) -> LocalBoxFuture<'a, Result<Claim, Failure>> {
        async move {
            let pool = run.context().database().pool();
            let id = message.asset_id.as_str();
            let row = sqlx::query!(
                r#"SELECT type AS kind, status, scan_status, deleted_at IS NOT NULL AS "is_deleted!", storage_key, content_sha256, mime_type
                   FROM ip_assets WHERE id = $1"#,
                id,
            )
            .fetch_optional(pool)
            .await?;
            let Some(row) = row else {
                // The application may not have committed yet.
                return Ok(Claim::Settled(retry("there is no such asset")));
            };
            let reason = match (row.is_deleted, row.scan_status.as_str(), row.status.as_str()) {
                (true, ..) => "ASSET_DELETED",
                (_, "PENDING" | "SCANNING", _) => {
                    let again = chrono::Utc::now() + SCAN_TAKES;
                    return Ok(Claim::Settled(deferred(again, "its scan has not ended")));
                }
                (_, "CLEAN", "REJECTED") => "REJECTED",
                (_, "CLEAN", _) => "",
                _ => "NOT_CLEAN",
            };
            if !reason.is_empty() {
                close(run, id, kind.step, variant, "SKIPPED", reason).await?;
                return Ok(Claim::Settled(skipped(reason)));
            }
            let original = match ObjectKey::original(&row.storage_key) {
                Ok(original) => original,
                Err(error) => {
                    close(run, id, kind.step, variant, "FAILED", "INVALID_KEY").await?;
                    return Ok(Claim::Settled(dead(format!("INVALID_KEY: {error}"))));
                }
            };
            let asset = Asset {
                id: id.to_owned(),
                kind: row.kind,
                mime_type: row.mime_type.unwrap_or_default(),
                original,
                sha256: row.content_sha256.unwrap_or_default(),
            };
            let request = message.request_id.as_ref().filter(|_| message.force);
            let step = Self {
                asset,
                kind,
                variant: variant.to_owned(),
                token: uuid(),
            };
            if let Some(settled) = step.claim(run, request.map(|id| id.as_str())).await? {
                return Ok(Claim::Settled(settled));
            }
            let stop = if !kind.of.contains(&step.asset.kind.as_str()) {
                Stop::Skipped("UNSUPPORTED_TYPE")
            } else if !step.asset.is_promoted() {
                Stop::Unscanned("NOT_PROMOTED")
            } else {
                return Ok(Claim::Claimed(Box::new(step)));
            };
            Ok(Claim::Settled(step.stop(run, stop).await))
        }
        .boxed_local()
    }

    /// What settles the message when the step is not ours: it is done, or somebody is at it.
    async fn claim(&self, run: &Run, request: Option<&str>) -> Result<Option<Outcome>, Failure> {
        let pool = run.context().database().pool();
        let lease = run.context().time_left() + GRACE;
        let claimed = sqlx::query_scalar!(
            r#"INSERT INTO asset_processing_steps AS s
                   (asset_id, step, variant, status, attempts, lease_token, lease_until, started_at, last_request_id)
               VALUES ($1, $2, $3, 'RUNNING', 1, $4::text::uuid, now() + make_interval(secs => $5), now(), $6)
               ON CONFLICT (asset_id, step, variant) DO UPDATE
               SET status = 'RUNNING', attempts = s.attempts + 1, lease_token = excluded.lease_token, lease_until = excluded.lease_until,
                   started_at = now(), finished_at = NULL, duration_ms = NULL, reason_code = NULL, error_message = NULL,
                   retryable = false, last_request_id = coalesce(excluded.last_request_id, s.last_request_id)
               WHERE s.status = 'PENDING' OR s.status = 'RUNNING' AND s.lease_until <= now() OR s.status = 'FAILED' AND s.retryable
                  OR s.status <> 'RUNNING' AND $6 IS NOT NULL AND s.last_request_id IS DISTINCT FROM $6
               RETURNING attempts"#,
            self.asset.id,
            self.kind.step,
            self.variant,
            self.token,
            lease.as_secs_f64(),
            request,
        )
        .fetch_optional(pool)
        .await?;
        if claimed.is_some() {
            return Ok(None);
        }
        let busy_until: Option<Timestamp> = sqlx::query_scalar!(
            "SELECT lease_until FROM asset_processing_steps WHERE asset_id = $1 AND step = $2 AND variant = $3 AND status = 'RUNNING'",
            self.asset.id,
            self.kind.step,
            self.variant,
        )
        .fetch_optional(pool)
        .await?
        .flatten();
        Ok(Some(match busy_until {
            Some(until) => deferred(until, "another run is at this step"),
            None => skipped("already_done"),
        }))
    }

    /// The step is done: `result` is what the ledger keeps of it. In the caller's transaction, which is to be committed in any case: nothing
    /// counts when somebody else has taken the step meanwhile, or when the asset is not any more what it was made of.
    pub fn succeed<'a>(&'a self, tx: &'a mut Tx<'_>, result: Value) -> LocalBoxFuture<'a, Result<Ended, Error>> {
        async move {
            // First, and in a statement of its own: of two steps that end together, the second one waits here, and then sees the first
            // one's end. Without, each misses the other's, and the asset is processed for ever.
            let now = sqlx::query!(
                r#"SELECT scan_status, content_sha256, deleted_at IS NOT NULL AS "is_deleted!" FROM ip_assets WHERE id = $1 FOR NO KEY UPDATE"#,
                self.asset.id,
            )
            .fetch_optional(&mut **tx)
            .await?;
            let reason = match now {
                Some(now) if now.is_deleted => Some("ASSET_DELETED"),
                Some(now) if now.scan_status != "CLEAN" => Some("NOT_CLEAN"),
                Some(now) if now.content_sha256.as_deref() != Some(&self.asset.sha256) => Some("SOURCE_CHANGED"),
                Some(_) => None,
                None => Some("ASSET_DELETED"),
            };
            let end = match reason {
                None => End { status: "SUCCEEDED", result: Some(result), ..End::default() },
                Some(_) => End { status: "SKIPPED", code: reason, ..End::default() },
            };
            Ok(match (self.finish(tx, end).await?, reason) {
                (false, _) => Ended::Discarded("LEASE_LOST"),
                (true, Some(reason)) => Ended::Discarded(reason),
                (true, None) => Ended::Succeeded,
            })
        }
        .boxed_local()
    }

    /// The step is not done: writes that down, and gives what becomes of the message.
    pub fn stop<'a>(&'a self, run: &'a Run, stop: Stop) -> LocalBoxFuture<'a, Outcome> {
        async move {
            let is_last = run.is_last_attempt();
            let (status, is_retryable, code, outcome) = match &stop {
                Stop::Unusable {
                    code,
                    detail,
                    is_retryable: true,
                } if !is_last => ("PENDING", false, Some(*code), retry(format!("{code}: {detail}"))),
                Stop::Unusable { code, detail, .. } => (
                    "FAILED",
                    false,
                    Some(*code),
                    done(json!({"failed": code, "detail": detail})),
                ),
                Stop::Skipped(code) => ("SKIPPED", false, Some(*code), skipped(*code)),
                Stop::Unscanned(code) => ("FAILED", true, Some(*code), skipped(*code)),
                Stop::Failed { code, failure } => {
                    let is_over = match failure {
                        Failure::Dead { .. } => true,
                        Failure::Retry { .. } => is_last,
                        Failure::Deferred { .. } => false,
                    };
                    let status = if is_over { "FAILED" } else { "PENDING" };
                    (status, is_over, *code, Err(failure.clone()))
                }
            };
            let detail = match &stop {
                Stop::Unusable { detail, .. } => Some(detail.as_str()),
                Stop::Failed { failure, .. } => Some(failure.text()),
                Stop::Skipped(_) | Stop::Unscanned(_) => None,
            };
            let end = End {
                status,
                is_retryable,
                code,
                detail: detail.map(|detail| detail.chars().take(LONGEST_DETAIL).collect()),
                is_to_be_sent: matches!(stop, Stop::Unscanned(_)),
                result: None,
            };
            let writing = async {
                let mut tx = run.begin().await?;
                lock(&mut tx, &self.asset.id).await?;
                let is_ours = self.finish(&mut tx, end).await?;
                if is_ours && let Stop::Unscanned(code) = &stop {
                    self.ask_for_scan(&mut tx, *code == "SOURCE_CHANGED").await?;
                }
                tx.commit().await?;
                Ok::<_, Error>(is_ours)
            };
            match (writing.await, outcome) {
                (Ok(false), _) => skipped("LEASE_LOST"),
                // Its lease ends by itself; if nobody comes back, upload-cleanup sends the message again.
                (Err(error), Err(failure)) => {
                    tracing::warn!(error = error.chain(), "a step could not be given back");
                    Err(failure)
                }
                (Err(error), Ok(_)) => Err(error.into()),
                (Ok(true), outcome) => outcome,
            }
        }
        .boxed_local()
    }

    /// Writes the end, while the step is ours; the asset is locked.
    async fn finish(&self, tx: &mut Tx<'_>, end: End) -> Result<bool, Error> {
        let is_required = sqlx::query_scalar!(
            "UPDATE asset_processing_steps
             SET status = $5, retryable = $6, reason_code = $7, error_message = $8, result = $9, lease_token = NULL, lease_until = NULL,
                 finished_at = CASE WHEN $5 <> 'PENDING' THEN clock_timestamp() END,
                 duration_ms = extract(epoch FROM clock_timestamp() - started_at) * 1000,
                 enqueued_at = CASE WHEN NOT $10 THEN enqueued_at END
             WHERE asset_id = $1 AND step = $2 AND variant = $3 AND lease_token = $4::text::uuid
             RETURNING required",
            self.asset.id,
            self.kind.step,
            self.variant,
            self.token,
            end.status,
            end.is_retryable,
            end.code,
            end.detail,
            end.result,
            end.is_to_be_sent,
        )
        .fetch_optional(&mut **tx)
        .await?;
        if is_required == Some(true) {
            complete(tx, &self.asset.id).await?;
        }
        Ok(is_required.is_some())
    }

    async fn ask_for_scan(&self, tx: &mut Tx<'_>, is_changed: bool) -> Result<(), Error> {
        if is_changed {
            sqlx::query!(
                "UPDATE ip_assets SET scan_status = 'PENDING' WHERE id = $1 AND scan_status = 'CLEAN'",
                self.asset.id
            )
            .execute(&mut **tx)
            .await?;
        }
        let Ok(asset_id) = self.asset.id.parse() else {
            return Ok(());
        };
        let scan = ScanAsset {
            asset_id,
            reason: ScanReason::SourceChanged,
            request_id: None,
        };
        tx.enqueue(&catalog::ASSET_VIRUS_SCAN, &[scan]).await
    }
}

impl Asset {
    /// Whether it lies where only the scan writes.
    fn is_promoted(&self) -> bool {
        self.original.as_str().starts_with(&format!("assets/{}/", self.id)) && self.sha256.len() == 64
    }

    /// The key of something that is made of it by the rules of a version: other content never has the same key (spec: assets 0.2).
    ///
    /// # Errors
    /// When the asset's id makes none.
    pub fn derived(&self, version: u32, file: &str) -> Result<ObjectKey, Error> {
        let revision = self.sha256.get(..12).unwrap_or_default();
        let key = format!("derived/{}/{revision}-v{version}/{file}", self.id);
        ObjectKey::new(&key).map_err(|error| Error::permanent("there is no key for it").caused_by(error))
    }
}

/// How a step ends, in the ledger's words.
#[derive(Default)]
struct End {
    status: &'static str,
    is_retryable: bool,
    code: Option<&'static str>,
    detail: Option<String>,
    result: Option<Value>,
    /// The next verdict of the scan sends its message again.
    is_to_be_sent: bool,
}

/// Ends a step that waits, of an asset that cannot be processed.
async fn close(run: &Run, id: &str, step: &str, variant: &str, status: &str, code: &str) -> Result<(), Error> {
    let mut tx = run.begin().await?;
    lock(&mut tx, id).await?;
    let is_required = sqlx::query_scalar!(
        "UPDATE asset_processing_steps SET status = $4, reason_code = $5, finished_at = now()
         WHERE asset_id = $1 AND step = $2 AND variant = $3 AND status = 'PENDING'
         RETURNING required",
        id,
        step,
        variant,
        status,
        code,
    )
    .fetch_optional(&mut *tx)
    .await?;
    if is_required == Some(true) {
        complete(&mut tx, id).await?;
    }
    tx.commit().await
}

/// Before a step of it ends; see [`Step::succeed`].
async fn lock(tx: &mut Tx<'_>, id: &str) -> Result<(), Error> {
    sqlx::query!("SELECT id FROM ip_assets WHERE id = $1 FOR NO KEY UPDATE", id)
        .fetch_optional(&mut **tx)
        .await?;
    Ok(())
}

/// Ends the processing of a locked asset, unless it needs another step.
async fn complete(tx: &mut Tx<'_>, id: &str) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE ip_assets SET status = 'REVIEW', processing_completed_at = now(), updated_at = now()
         WHERE id = $1 AND status = 'PROCESSING'
           AND NOT EXISTS (SELECT FROM asset_processing_steps s
                           WHERE s.asset_id = $1 AND s.required AND s.status IN ('PENDING', 'RUNNING'))",
        id,
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// As PostgreSQL reads it.
fn uuid() -> String {
    format!("{:032x}", rand::random::<u128>())
}
