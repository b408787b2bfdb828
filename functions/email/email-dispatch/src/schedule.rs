//! Scheduled mail becomes ordinary rows of the ledger; a recurring one makes its next row when its last is due.

use chrono::{DateTime, Days, Months};
use chrono_tz::Tz;
use jobs::Timestamp;
use runtime::{Failure, Run};
use serde_json::Value;
use services::mail::{Category, Request, templates};
use services::{Redacted, local_time, mail};

/// Rows of one page.
const PAGE: i64 = 200;

/// The k-th occurrence, counted from the first, by the clock of the zone. The end of a short month stands for days it lacks.
fn occurrence(first: Timestamp, zone: Tz, recurrence: &str, k: u32) -> Timestamp {
    let local = first.with_timezone(&zone).naive_local();
    let local = match recurrence {
        "daily" => local.checked_add_days(Days::new(k.into())),
        "weekly" => local.checked_add_days(Days::new(7 * u64::from(k))),
        _ => local.checked_add_months(Months::new(k)),
    };
    local.map_or(DateTime::<chrono::Utc>::MAX_UTC, |local| {
        local_time::instant(zone, local)
    })
}

/// The latest occurrence that is due, from the k-th on: what a long silence left out is not sent in a heap.
fn latest_due(first: Timestamp, zone: Tz, recurrence: &str, from: u32, at: Timestamp) -> u32 {
    (from..)
        .take_while(|k| occurrence(first, zone, recurrence, *k) <= at)
        .last()
        .unwrap_or(from)
}

/// Enqueues what is due and moves recurring mail on; answers how many.
pub(crate) async fn enqueue_due(run: &Run, at: Timestamp) -> Result<usize, Failure> {
    let mut total = 0;
    while !run.must_stop() {
        let count = enqueue_page(run, at).await?;
        total += count;
        if count < PAGE as usize {
            break;
        }
    }
    Ok(total)
}

async fn enqueue_page(run: &Run, at: Timestamp) -> Result<usize, Failure> {
    let mut tx = run.begin().await?;
    let rows = sqlx::query!(
        r#"SELECT s.id, s.user_id, coalesce(s.to_email, r.email, '') AS "email!", s.template, s.variables AS "variables: Value", s.time_zone, s.recurrence,
                  s.next_occurrence, s.scheduled_send_time, coalesce(s.first_send_time, s.scheduled_send_time) AS "first!"
           FROM scheduled_emails s LEFT JOIN mail_recipients r ON r.user_id = s.user_id
           WHERE s.status = 'PENDING' AND s.scheduled_send_time <= $1
           ORDER BY s.scheduled_send_time, s.id LIMIT $2
           FOR UPDATE OF s SKIP LOCKED"#,
        at,
        PAGE,
    )
    .fetch_all(&mut *tx)
    .await?;
    let (mut requests, mut ids, mut statuses, mut next, mut times) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let zone = local_time::zone(&row.time_zone);
        let from = row.next_occurrence.unsigned_abs();
        let k = row
            .recurrence
            .as_deref()
            .map_or(from, |recurrence| latest_due(row.first, zone, recurrence, from, at));
        let template = templates::find(&row.template);
        if let Some(template) = template {
            let category = template.category.unwrap_or(Category::Announcements);
            requests.push(Request {
                dedup_key: format!("scheduled:{}:{k}", row.id),
                user_id: row.user_id,
                to: Redacted::new(row.email),
                stream: template.stream_for(category),
                category,
                template: template.key.to_owned(),
                variables: row.variables,
                priority: "MEDIUM".to_owned(),
                not_before: None,
                notification_id: None,
            });
        }
        ids.push(row.id);
        times.push(row.recurrence.as_deref().map_or(row.scheduled_send_time, |recurrence| {
            occurrence(row.first, zone, recurrence, k + 1)
        }));
        next.push(i32::try_from(k + 1).unwrap_or(i32::MAX));
        statuses.push(match (template, row.recurrence) {
            (None, _) => "FAILED".to_owned(),
            (Some(_), Some(_)) => "PENDING".to_owned(),
            (Some(_), None) => "SENT".to_owned(),
        });
    }
    if !requests.is_empty() {
        mail::enqueue(&mut *tx, run.context().mailer()?.sender_domain(), &requests, at).await?;
    }
    sqlx::query!(
        "UPDATE scheduled_emails s
         SET status = d.status, next_occurrence = d.next_occurrence, first_send_time = coalesce(s.first_send_time, s.scheduled_send_time),
             scheduled_send_time = d.scheduled_send_time
         FROM unnest($1::text[], $2::text[], $3::int[], $4::timestamptz[]) AS d (id, status, next_occurrence, scheduled_send_time)
         WHERE s.id = d.id",
        &ids,
        &statuses,
        &next,
        &times,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(ids.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(first: &str, zone: &str, recurrence: &str) -> Vec<String> {
        let first = first.parse().unwrap();
        (0..4)
            .map(|k| {
                occurrence(first, local_time::zone(zone), recurrence, k)
                    .format("%FT%RZ")
                    .to_string()
            })
            .collect()
    }

    #[test]
    fn the_last_of_january_is_followed_by_the_last_of_february_and_march() {
        let expected = [
            "2025-01-31T09:00Z",
            "2025-02-28T09:00Z",
            "2025-03-31T09:00Z",
            "2025-04-30T09:00Z",
        ];
        assert_eq!(series("2025-01-31T09:00:00Z", "UTC", "monthly"), expected);
    }

    #[test]
    fn nine_in_the_morning_stays_nine_in_the_morning_when_the_clocks_change() {
        let expected = [
            "2025-03-28T08:00Z",
            "2025-03-29T08:00Z",
            "2025-03-30T07:00Z",
            "2025-03-31T07:00Z",
        ];
        assert_eq!(series("2025-03-28T08:00:00Z", "Europe/Berlin", "daily"), expected);
        assert_eq!(
            series("2025-03-28T08:00:00Z", "Europe/Berlin", "weekly")[1],
            "2025-04-04T07:00Z"
        );
    }

    #[test]
    fn after_a_long_silence_only_the_latest_occurrence_is_due() {
        let first = "2025-01-01T09:00:00Z".parse().unwrap();
        let at = "2025-01-05T10:00:00Z".parse().unwrap();
        assert_eq!(latest_due(first, Tz::UTC, "daily", 1, at), 4);
    }
}
