use std::collections::VecDeque;

use jobs::{Id, Timestamp};
use services::{Error, local_time};
use sqlx::PgPool;

use crate::{Frequency, Kind, Slot, due};

/// Pages of one read of users.
const READ_AHEAD: usize = 10;

/// Users whose deliveries are written together, with the slots that they are due for; and what is the same for all of them. One
/// column a field: this is what the statement gets.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// `digest_deliveries.kind`.
    pub kind: &'static str,
    /// In ascending order.
    pub user_ids: Vec<String>,
    /// DAILY or WEEKLY.
    pub frequencies: Vec<String>,
    /// The names of the slots.
    pub period_keys: Vec<String>,
    /// The slots.
    pub slots: Vec<Timestamp>,
    /// "Now".
    pub at: Timestamp,
    /// The template of the mails.
    pub template: &'static str,
    /// The category of the mails.
    pub category: &'static str,
    /// Where the mails come from.
    pub sender_domain: String,
}

/// A delivery that this process has written, and is to send.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The row of `digest_deliveries`.
    pub delivery_id: String,
    /// The row of `email_messages`; without items there is none.
    pub mail_id: Option<String>,
}

/// One statement that writes the deliveries, items and mails of a [`Page`], and commits all of them or nothing.
///
/// The job gives the text of three parts:
///
/// * `items`: from `page` (`user_id, delivery_id, categories_off, show_message_preview, window_start`) to `item_id, user_id,
///   delivery_id` and what the contents need. It must lock the rows that it reads, in the order of their ids, and leave out what is in
///   `digest_items`.
/// * `contents`: from `items` to `user_id, item_count, variables`, one row for each user with items. The mail's variables are these,
///   and `user_name` and `frequency`. They are `json`, which is text that grows: `jsonb` is built anew at each level, for twice the time.
/// * `taken`: an update that changes the items `i`, so that nothing else mails them, up to and with its condition; the frame adds that
///   their delivery was claimed.
///
/// `$1` is the kind and `$6` is "now"; further values of the job begin at `$10`. The statement leaves out who is not eligible, and who
/// has the delivery. It does not see rows that it inserts: hence the ids that are made at its beginning.
///
/// The planner knows nothing of how many rows the parts have, takes them for one, and would compare each with each: a FULL JOIN can
/// only be hashed, and an `IN` inside of another expression is no join. Nor is a subquery with `OFFSET 0`, or in the place of a value:
/// it looks a user up, where a join would read all subscribers, or all deliveries, for each page.
#[macro_export]
macro_rules! claim {
    ($pool:expr, $page:expr, items: $items:tt, contents: $contents:tt, taken: $taken:tt $(, $value:expr)* $(,)?) => {
        $crate::sqlx::query!(
            r#"WITH page AS MATERIALIZED (
                   SELECT w.user_id, w.frequency, w.period_key, w.slot_at, r.email, r.name, r.categories_off, r.show_message_preview,
                          CASE WHEN r.quiet_hours_start IS NULL THEN interval '12 hours' ELSE interval '24 hours' END AS life,
                          gen_random_uuid()::text AS delivery_id, gen_random_uuid()::text AS mail_id,
                          greatest(coalesce(s.last_window_end - interval '2 hours', $6::timestamptz - CASE w.frequency WHEN 'DAILY' THEN interval '24 hours' ELSE interval '7 days' END),
                                   $6 - CASE w.frequency WHEN 'DAILY' THEN interval '7 days' ELSE interval '28 days' END) AS window_start
                   FROM unnest($2::text[], $3::text[], $4::text[], $5::timestamptz[]) AS w (user_id, frequency, period_key, slot_at)
                   CROSS JOIN LATERAL (SELECT FROM digest_subscriptions p WHERE p.kind = $1::text AND p.user_id = w.user_id AND p.frequency = w.frequency OFFSET 0) p
                   JOIN mail_recipients r ON r.user_id = w.user_id
                   LEFT JOIN digest_states s ON s.user_id = w.user_id AND s.kind = $1
                   WHERE r.active AND r.verified AND NOT r.unsubscribed AND r.email <> ''
                     AND NOT EXISTS (SELECT FROM email_suppressions x WHERE x.email = r.email AND (x.expires_at IS NULL OR x.expires_at > $6))
                     AND (w.period_key LIKE 'M:%' OR s.last_sent_at IS NULL
                          OR s.last_sent_at < $6 - CASE w.frequency WHEN 'DAILY' THEN interval '12 hours' ELSE interval '3 days' END)
                     AND (SELECT d.id FROM digest_deliveries d WHERE d.user_id = w.user_id AND d.kind = $1 AND d.period_key = w.period_key) IS NULL
               ), items AS MATERIALIZED ("# + $items + r#"), contents AS MATERIALIZED ("# + $contents + r#"), drafts AS MATERIALIZED (
                   SELECT g.*, coalesce(c.item_count, 0) AS item_count, c.variables::jsonb || jsonb_build_object('user_name', g.name, 'frequency', g.frequency) AS variables
                   FROM page g FULL JOIN contents c ON c.user_id = g.user_id
               ), claimed AS (
                   INSERT INTO digest_deliveries (id, user_id, kind, frequency, period_key, status, item_count, window_start, window_end, slot_at, email_message_id)
                   SELECT d.delivery_id, d.user_id, $1, d.frequency, d.period_key, CASE d.item_count WHEN 0 THEN 'EMPTY' ELSE 'ENQUEUED' END, d.item_count,
                          d.window_start, $6, d.slot_at, CASE WHEN d.item_count > 0 THEN d.mail_id END
                   FROM drafts d ORDER BY d.user_id
                   ON CONFLICT (user_id, kind, period_key) DO NOTHING
                   RETURNING id, user_id, email_message_id
               ), linked AS (
                   INSERT INTO digest_items (kind, item_id, user_id, digest_delivery_id)
                   SELECT $1, i.item_id, i.user_id, i.delivery_id FROM items i WHERE (i.delivery_id IN (SELECT id FROM claimed)) IS TRUE
               ), taken AS ("# + $taken + r#" AND (i.delivery_id IN (SELECT id FROM claimed)) IS TRUE), mails AS (
                   INSERT INTO email_messages (id, dedup_key, user_id, to_email, stream, category, template, variables, expires_at, sender_domain, next_attempt_at, digest_delivery_id)
                   SELECT d.mail_id, 'digest:' || $1 || ':' || d.user_id || ':' || d.period_key, d.user_id, d.email, 'DIGEST', $8::text, $7::text,
                          d.variables, $6 + d.life, $9::text, $6, d.delivery_id
                   FROM drafts d WHERE d.item_count > 0 AND (d.delivery_id IN (SELECT id FROM claimed)) IS TRUE
               ), emptied AS (
                   INSERT INTO digest_states AS s (user_id, kind, last_window_end)
                   SELECT d.user_id, $1, $6 FROM drafts d WHERE d.item_count = 0 AND (d.delivery_id IN (SELECT id FROM claimed)) IS TRUE ORDER BY d.user_id
                   ON CONFLICT (user_id, kind) DO UPDATE SET last_window_end = greatest(s.last_window_end, EXCLUDED.last_window_end)
               )
               SELECT d.id AS "id!", d.email_message_id AS "email_message_id?" FROM claimed d ORDER BY d.user_id"#,
            $page.kind,
            &$page.user_ids,
            &$page.frequencies,
            &$page.period_keys,
            &$page.slots,
            $page.at,
            $page.template,
            $page.category,
            $page.sender_domain,
            $($value),*
        )
        .map(|row| $crate::Claim { delivery_id: row.id, mail_id: row.email_message_id })
        .fetch_all($pool)
    };
}

/// Which users a run is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audience {
    /// DAILY, WEEKLY or both.
    pub frequencies: Vec<String>,
    /// These only.
    pub user_ids: Option<Vec<String>>,
    /// Not by the clock; the name in the place of the slot's.
    pub forced: Option<String>,
}

/// What is due: an hour of a zone, and its slot. One column a field.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hours {
    frequencies: Vec<String>,
    zones: Vec<String>,
    hours: Vec<i16>,
    weekdays: Vec<i16>,
    slots: Vec<Slot>,
    /// Names of zones that nobody knows; they count as UTC.
    pub unknown_zones: usize,
}

impl Hours {
    /// The hours that users have chosen, as far as they are due (spec: comms, C11): read from an index alone, decided in Rust.
    pub(crate) async fn due(pool: &PgPool, kind: Kind, audience: &Audience, at: Timestamp) -> Result<Self, Error> {
        let rows = sqlx::query!(
            r#"SELECT DISTINCT frequency AS "frequency!", time_zone AS "time_zone!", digest_hour AS "digest_hour!", digest_weekday AS "digest_weekday!"
               FROM digest_subscriptions
               WHERE kind = $1 AND frequency = ANY($2) AND ($3::text[] IS NULL OR user_id = ANY($3))"#,
            kind.as_str(),
            &audience.frequencies,
            audience.user_ids.as_deref() as _,
        )
        .fetch_all(pool)
        .await?;
        let mut due_hours = Self::default();
        for row in rows {
            due_hours.unknown_zones += usize::from(row.time_zone.parse::<chrono_tz::Tz>().is_err());
            let slot = match &audience.forced {
                Some(name) => Some(Slot {
                    at,
                    period_key: format!("M:{name}"),
                }),
                None => due(
                    Frequency::named(&row.frequency),
                    local_time::zone(&row.time_zone),
                    row.digest_hour.unsigned_abs().into(),
                    row.digest_weekday.unsigned_abs().into(),
                    at,
                ),
            };
            if let Some(slot) = slot {
                due_hours.frequencies.push(row.frequency);
                due_hours.zones.push(row.time_zone);
                due_hours.hours.push(row.digest_hour);
                due_hours.weekdays.push(row.digest_weekday);
                due_hours.slots.push(slot);
            }
        }
        Ok(due_hours)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn period_keys(&self) -> Vec<String> {
        self.slots.iter().map(|slot| slot.period_key.clone()).collect()
    }
}

/// The users of a run, in ascending order, without those who have the digest of their slot.
#[derive(Debug)]
pub(crate) struct Users<'a> {
    kind: Kind,
    hours: &'a Hours,
    audience: &'a Audience,
    period_keys: Vec<String>,
    ahead: VecDeque<(String, usize)>,
    exhausted: bool,
    until: Option<String>,
    /// The last one who was given out.
    cursor: Option<String>,
    /// Users of a page.
    page: usize,
}

impl<'a> Users<'a> {
    pub(crate) fn new(kind: Kind, hours: &'a Hours, audience: &'a Audience, cursor: Option<&Id>, page: usize) -> Self {
        Self {
            page,
            kind,
            audience,
            period_keys: hours.period_keys(),
            hours,
            ahead: VecDeque::new(),
            exhausted: false,
            until: None,
            cursor: cursor.map(Id::to_string),
        }
    }

    /// Nobody after this one, when there is one.
    pub(crate) fn end_after(&mut self, until: Option<&Id>) {
        self.until = until.map(Id::to_string);
        self.ahead.clear();
        self.exhausted = false;
    }

    /// Fills the next page; empty when there is nobody left.
    pub(crate) async fn next(&mut self, pool: &PgPool, blank: &Page) -> Result<Page, Error> {
        let mut page = blank.clone();
        if self.ahead.is_empty() && !self.exhausted {
            self.read(pool).await?;
        }
        while page.user_ids.len() < self.page
            && let Some((user_id, hour)) = self.ahead.pop_front()
        {
            page.frequencies.push(self.hours.frequencies[hour].clone());
            page.period_keys.push(self.period_keys[hour].clone());
            page.slots.push(self.hours.slots[hour].at);
            page.user_ids.push(user_id);
        }
        if let Some(last) = page.user_ids.last() {
            self.cursor = Some(last.clone());
        }
        Ok(page)
    }

    /// True when one read did not reach the end.
    pub(crate) async fn are_many(&mut self, pool: &PgPool) -> Result<bool, Error> {
        self.read(pool).await?;
        Ok(!self.exhausted)
    }

    async fn read(&mut self, pool: &PgPool) -> Result<(), Error> {
        let limit = READ_AHEAD * self.page;
        let rows = sqlx::query!(
            r#"SELECT p.user_id AS "user_id!", w.n AS "n!"
               FROM unnest($2::text[], $3::text[], $4::smallint[], $5::smallint[], $6::text[])
                    WITH ORDINALITY AS w (frequency, time_zone, digest_hour, digest_weekday, period_key, n)
               JOIN digest_subscriptions p ON p.kind = $1 AND p.frequency = w.frequency AND p.time_zone = w.time_zone
                    AND p.digest_hour = w.digest_hour AND p.digest_weekday = w.digest_weekday
               WHERE ($7::text IS NULL OR p.user_id > $7) AND ($8::text IS NULL OR p.user_id <= $8)
                 AND ($9::text[] IS NULL OR p.user_id = ANY($9))
                 AND NOT EXISTS (SELECT FROM digest_deliveries d WHERE d.user_id = p.user_id AND d.kind = $1 AND d.period_key = w.period_key)
               ORDER BY p.user_id
               LIMIT $10"#,
            self.kind.as_str(),
            &self.hours.frequencies,
            &self.hours.zones,
            &self.hours.hours,
            &self.hours.weekdays,
            &self.period_keys,
            self.cursor,
            self.until,
            self.audience.user_ids.as_deref() as _,
            limit as i64,
        )
        .fetch_all(pool)
        .await?;
        self.exhausted = rows.len() < limit;
        self.ahead = rows
            .into_iter()
            .map(|row| (row.user_id, row.n.unsigned_abs() as usize - 1))
            .collect();
        Ok(())
    }

    /// Every `share`-th user: where the shares of a large slot end.
    pub(crate) async fn shares(&self, pool: &PgPool, share: i64) -> Result<Vec<Id>, Error> {
        let ends = sqlx::query_scalar!(
            r#"SELECT user_id AS "user_id!"
               FROM (SELECT p.user_id, row_number() OVER (ORDER BY p.user_id) AS n
                     FROM unnest($2::text[], $3::text[], $4::smallint[], $5::smallint[], $6::text[])
                          AS w (frequency, time_zone, digest_hour, digest_weekday, period_key)
                     JOIN digest_subscriptions p ON p.kind = $1 AND p.frequency = w.frequency AND p.time_zone = w.time_zone
                          AND p.digest_hour = w.digest_hour AND p.digest_weekday = w.digest_weekday
                     WHERE NOT EXISTS (SELECT FROM digest_deliveries d WHERE d.user_id = p.user_id AND d.kind = $1 AND d.period_key = w.period_key)) u
               WHERE n % $7::bigint = 0
               ORDER BY user_id"#,
            self.kind.as_str(),
            &self.hours.frequencies,
            &self.hours.zones,
            &self.hours.hours,
            &self.hours.weekdays,
            &self.period_keys,
            share,
        )
        .fetch_all(pool)
        .await?;
        Ok(ends.into_iter().filter_map(|id| id.parse().ok()).collect())
    }
}
