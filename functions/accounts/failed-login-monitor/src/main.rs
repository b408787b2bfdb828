//! Watches failed log-ins: tells security of suspicious ones, and locks accounts that are under attack (spec: platform,
//! `failed-login-monitor`).
//!
//! # Invariants
//!
//! * A slot looks at attempts of the last 15 minutes, each with the 15 minutes before it: an attack across two slots is seen, and a
//!   slot that comes late sees what it would have seen in time.
//! * A lock-out is at most 24 hours from the slot, and what happened before a lock-out leads to no further one: a third party that
//!   knows an address cannot keep its owner out by attempts that have already had their effect.
//! * Lock, audit event and mail are one transaction, as are an alert and its counts. Mails leave with the ledger's next tick.

mod detect;

use std::process::ExitCode;

use jobs::{Position, Sweep, catalog};
use runtime::{Outcome, Page, Run, Sweeper, Swept};
use serde::{Deserialize, Serialize};
use serde_json::json;
use services::mail::{self, Category, Request, Stream};
use services::{Error, Redacted};

use crate::detect::{Finding, Kind};

/// Of the new alerts of a slot a mail lists so many.
const LISTED: i64 = 50;

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Report {
    alerts: i64,
    new_alerts: i64,
    locked: i64,
    ip_spray: i64,
    /// Mails to security.
    told: i64,
}

fn main() -> ExitCode {
    runtime::serve(catalog::FAILED_LOGIN_MONITOR, monitor)
}

async fn monitor(message: Sweep, run: &mut Run) -> Outcome {
    let run = &*run;
    let mut sweep = Sweeper::<Report>::begin(run, message, 500).await?;
    let findings = detect::findings(run.context().database().pool(), sweep.as_of()).await?;
    let domain = run.context().mailer()?.sender_domain();
    sweep
        .step("lock", async |page| lock(page, &findings, domain).await)
        .await;
    sweep.step("alert", async |page| alert(page, &findings).await).await;
    sweep
        .step("tell", async |page| {
            tell(page, domain).await?;
            Ok(Swept::default())
        })
        .await;
    sweep.finish()
}

/// The findings of a page; what is behind the last of them is the next page's.
fn of_page<'f>(
    page: &Page<'_, Report>,
    findings: &'f [Finding],
    fits: impl Fn(&Finding) -> bool,
) -> (Vec<&'f Finding>, Swept) {
    let behind = |finding: &&Finding| finding.key > page.after.id && fits(finding);
    let found: Vec<_> = findings
        .iter()
        .filter(behind)
        .take(page.limit.unsigned_abs() as usize)
        .collect();
    let swept = Swept {
        found: found.len() as i64,
        gone: 0,
        at: Position::start().at,
        id: found.last().map_or_else(String::new, |finding| finding.key.clone()),
    };
    (found, swept)
}

/// Locks accounts for 24 hours, where that is longer than they are locked already. `is_active` is not ours: it has no end.
async fn lock(page: &mut Page<'_, Report>, findings: &[Finding], domain: &str) -> Result<Swept, Error> {
    let (attacked, swept) = of_page(page, findings, Finding::calls_for_a_lock);
    let emails: Vec<_> = attacked.iter().map(|finding| finding.subject.clone()).collect();
    let attempts: Vec<_> = attacked.iter().map(|finding| finding.lockable).collect();
    let addresses: Vec<_> = attacked.iter().map(|finding| finding.ip_address.clone()).collect();
    let locked = sqlx::query!(
        r#"WITH locked AS (
               UPDATE users u SET locked_until = $1::timestamptz + interval '24 hours', lock_reason = 'failed_logins', updated_at = now()
               FROM unnest($2::text[], $3::int[], $4::text[]) AS a (email, attempts, ip_address)
               WHERE lower(u.email) = a.email AND u.deleted_at IS NULL
                 AND (u.locked_until IS NULL OR u.locked_until < $1::timestamptz + interval '24 hours')
               RETURNING u.id, u.email, u.name, u.locked_until, a.attempts, a.ip_address
           ), audited AS (
               INSERT INTO audit_events (timestamp, action, entity_type, entity_id, ip_address, after_state, metadata)
               SELECT $1, 'ACCOUNT_LOCKED', 'user', id, ip_address,
                      jsonb_build_object('lockedUntil', locked_until, 'lockReason', 'failed_logins', 'lockoutMinutes', 1440,
                                         'failedAttempts', attempts),
                      '{"actor": "system"}'
               FROM locked
           )
           SELECT id, email AS "email!: Redacted<String>", name AS "name: Redacted<String>", locked_until AS "locked_until!",
                  attempts AS "attempts!", ip_address
           FROM locked"#,
        page.as_of,
        &emails,
        &attempts,
        &addresses as _,
    )
    .fetch_all(&mut *page.tx)
    .await?;
    let requests: Vec<_> = locked
        .iter()
        .map(|user| {
            let variables = json!({
                "user_name": user.name.as_ref().map(Redacted::expose),
                "locked_until": user.locked_until,
                "lockout_minutes": 1440,
                "failed_attempts": user.attempts,
                "ip_address": user.ip_address,
            });
            let key = format!("account-locked:{}:{}", user.id, user.locked_until.to_rfc3339());
            request(
                key,
                Some(user.id.clone()),
                user.email.clone(),
                "account-locked",
                variables,
            )
        })
        .collect();
    mail::enqueue(&mut *page.tx, domain, &requests, page.as_of).await?;
    page.report.locked += locked.len() as i64;
    Ok(swept)
}

/// One alert a subject, for as long as it is seen once an hour at least; one that somebody has acknowledged goes on as it is.
async fn alert(page: &mut Page<'_, Report>, findings: &[Finding]) -> Result<Swept, Error> {
    let (seen, swept) = of_page(page, findings, |_| true);
    let kinds: Vec<_> = seen.iter().map(|finding| finding.kind.as_str().to_owned()).collect();
    let subjects: Vec<_> = seen.iter().map(|finding| finding.subject.clone()).collect();
    let severities: Vec<_> = seen.iter().map(|finding| finding.severity().to_owned()).collect();
    let attempts: Vec<_> = seen.iter().map(|finding| finding.attempts).collect();
    let details: Vec<_> = seen.iter().map(|finding| finding.details()).collect();
    let stale = sqlx::query!(
        "UPDATE security_alerts s SET status = 'resolved'
         FROM unnest($2::text[], $3::text[]) AS f (alert_type, subject)
         WHERE s.alert_type = f.alert_type AND s.subject = f.subject AND s.status = 'open'
           AND s.last_seen_at < $1::timestamptz - interval '60 minutes'",
        page.as_of,
        &kinds,
        &subjects,
    );
    stale.execute(&mut *page.tx).await?;
    let new = sqlx::query_scalar!(
        r#"WITH finding AS (
               SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::int[], $6::jsonb[]) AS f (alert_type, subject, severity, attempts, metadata)
           ), known AS (
               UPDATE security_alerts s
               SET attempts = f.attempts, metadata = f.metadata, window_start = $1::timestamptz - interval '15 minutes', window_end = $1,
                   severity = CASE WHEN s.severity = 'critical' THEN s.severity ELSE f.severity END, last_seen_at = greatest(s.last_seen_at, $1)
               FROM finding f
               WHERE s.alert_type = f.alert_type AND s.subject = f.subject AND s.status IN ('open', 'acknowledged')
                 AND s.last_seen_at >= $1::timestamptz - interval '60 minutes'
               RETURNING s.alert_type, s.subject
           ), new AS (
               INSERT INTO security_alerts (alert_type, subject, severity, attempts, window_start, window_end, first_seen_at, last_seen_at, metadata)
               SELECT alert_type, subject, severity, attempts, $1::timestamptz - interval '15 minutes', $1, $1, $1, metadata FROM finding
               WHERE (alert_type, subject) NOT IN (SELECT alert_type, subject FROM known)
               ON CONFLICT (alert_type, subject) WHERE status = 'open' DO NOTHING
               RETURNING 1
           )
           SELECT count(*) AS "new!" FROM new"#,
        page.as_of,
        &kinds,
        &subjects,
        &severities,
        &attempts,
        &details,
    )
    .fetch_one(&mut *page.tx)
    .await?;
    page.report.alerts += swept.found;
    page.report.new_alerts += new;
    page.report.ip_spray += seen.iter().filter(|finding| finding.kind == Kind::Spray).count() as i64;
    Ok(swept)
}

/// One mail to each who answers for security, of the alerts that are new with this slot; none when there are none.
async fn tell(page: &mut Page<'_, Report>, domain: &str) -> Result<(), Error> {
    let new = sqlx::query!(
        r#"SELECT alert_type, subject, severity, attempts, count(*) OVER () AS "total!" FROM security_alerts
           WHERE first_seen_at = $1 ORDER BY severity, attempts DESC, subject LIMIT $2"#,
        page.as_of,
        LISTED,
    )
    .fetch_all(&mut *page.tx)
    .await?;
    let Some(total) = new.first().map(|alert| alert.total) else {
        return Ok(());
    };
    let alerts: Vec<_> = new
        .iter()
        .map(|alert| {
            json!({"type": alert.alert_type, "subject": alert.subject, "severity": alert.severity, "attempts": alert.attempts})
        })
        .collect();
    let variables = json!({
        "window_start": page.as_of - chrono::Duration::minutes(15),
        "window_end": page.as_of,
        "alerts": alerts,
        "more_count": total - alerts.len() as i64,
    });
    let requests: Vec<_> = recipients(page)
        .await?
        .into_iter()
        .map(|(user, address)| {
            let key = format!("security-alert:{}:{}", page.as_of.to_rfc3339(), address.expose());
            request(key, user, address, "security-alert", variables.clone())
        })
        .collect();
    let enqueued = mail::enqueue(&mut *page.tx, domain, &requests, page.as_of).await?;
    page.report.told = enqueued.iter().filter(|mail| mail.inserted).count() as i64;
    Ok(())
}

/// `SECURITY_EMAIL`, else `ADMIN_EMAIL` (lists with commas), else every administrator.
async fn recipients(page: &mut Page<'_, Report>) -> Result<Vec<(Option<String>, Redacted<String>)>, Error> {
    let set = |name| std::env::var(name).ok().filter(|list: &String| !list.trim().is_empty());
    if let Some(list) = set("SECURITY_EMAIL").or_else(|| set("ADMIN_EMAIL")) {
        let addresses = list.split(',').map(str::trim).filter(|address| !address.is_empty());
        return Ok(addresses.map(|address| (None, address.to_lowercase().into())).collect());
    }
    let administrators = sqlx::query!(
        r#"SELECT id, email AS "email!: Redacted<String>" FROM users
           WHERE role = 'ADMIN' AND is_active AND deleted_at IS NULL AND email IS NOT NULL ORDER BY id LIMIT 10"#,
    )
    .fetch_all(&mut *page.tx)
    .await?;
    Ok(administrators
        .into_iter()
        .map(|admin| (Some(admin.id), admin.email))
        .collect())
}

fn request(
    dedup_key: String,
    user_id: Option<String>,
    to: Redacted<String>,
    template: &str,
    variables: serde_json::Value,
) -> Request {
    Request {
        dedup_key,
        user_id,
        to,
        stream: Stream::Essential,
        category: Category::System,
        template: template.to_owned(),
        variables,
        priority: "URGENT".to_owned(),
        not_before: None,
        notification_id: None,
    }
}
