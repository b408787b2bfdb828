//! The send rate, shared by all functions through Postgres: one row a lane, moved forward by whoever is about to send (GCRA;
//! spec: comms, C7).

use std::time::Duration;

use sqlx::PgPool;

use super::stream::Stream;
use crate::{Error, Timestamp};

/// A lane has its own rate. Bulk mail reserves on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Lane {
    Account,
    Bulk,
}

impl Lane {
    pub(super) fn of(stream: Stream) -> Self {
        match stream {
            Stream::Essential | Stream::Notification => Self::Account,
            Stream::Digest | Stream::Marketing => Self::Bulk,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Bulk => "bulk",
        }
    }

    /// How long a mail may wait for its turn while it is being handled.
    fn patience(self) -> f64 {
        match self {
            Self::Account => 5.0,
            Self::Bulk => 60.0,
        }
    }
}

/// A reservation: the k-th mail may leave `k / rate` after `wait`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub wait: Duration,
    pub rate: f64,
}

/// What reserving gave.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reservation {
    Granted(Slot),
    /// The lane is full until then.
    Full(Timestamp),
}

/// What SES allows, as last asked.
#[derive(Clone, Debug)]
pub(super) struct Quota {
    pub account_rate: f64,
    pub bulk_rate: f64,
    pub sending_enabled: bool,
    /// Less than 10 % of the day's quota is left.
    pub bulk_exhausted: bool,
    /// Nothing of it is left.
    pub exhausted: bool,
    pub marketing_paused: bool,
    /// SES was never asked: the rate is a guess.
    pub unknown: bool,
    /// Older than a minute: somebody should ask SES again.
    pub stale: bool,
}

impl Quota {
    pub(super) fn rate(&self, lane: Lane) -> f64 {
        match lane {
            Lane::Account => self.account_rate,
            Lane::Bulk => self.bulk_rate,
        }
    }

    /// As many mails as leave within a quarter of a second: what one reservation asks for.
    pub(super) fn chunk(&self, lane: Lane) -> usize {
        (self.rate(lane) / 4.0).max(1.0) as usize
    }
}

/// Reads the quota. After a throttle answer the bulk rate is cut for a minute, then regained by tenths every half minute.
pub(super) async fn quota(pool: &PgPool) -> Result<Quota, Error> {
    let row = sqlx::query!(
        r#"SELECT (0.95 * max_send_rate)::float8 AS "account_rate!",
                  greatest(1, 0.8 * max_send_rate * reputation_factor
                              * least(1, throttle_factor + 0.1 * greatest(0, floor((extract(epoch FROM clock_timestamp() - throttled_at) - 60) / 30))))::float8 AS "bulk_rate!",
                  sending_enabled, marketing_paused,
                  max_24h_send >= 0 AND sent_24h >= 0.9 * max_24h_send AS "bulk_exhausted!",
                  max_24h_send >= 0 AND sent_24h >= max_24h_send AS "exhausted!",
                  fetched_at IS NULL AS "unknown!", coalesce(fetched_at < clock_timestamp() - interval '60 seconds', false) AS "stale!"
           FROM email_sending_state"#
    )
    .fetch_one(pool)
    .await?;
    Ok(Quota {
        account_rate: row.account_rate,
        bulk_rate: row.bulk_rate,
        sending_enabled: row.sending_enabled,
        bulk_exhausted: row.bulk_exhausted,
        exhausted: row.exhausted,
        marketing_paused: row.marketing_paused,
        unknown: row.unknown,
        stale: row.stale,
    })
}

/// True for the one process that shall ask SES for the quota.
pub(super) async fn win_refresh(pool: &PgPool) -> Result<bool, Error> {
    let won = sqlx::query!(
        "UPDATE email_sending_state SET fetched_at = clock_timestamp()
         WHERE fetched_at < clock_timestamp() - interval '60 seconds'"
    )
    .execute(pool)
    .await?;
    Ok(won.rows_affected() == 1)
}

/// The account's numbers, as SES gave them.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub max_send_rate: f64,
    pub max_24h_send: f64,
    pub sent_24h: f64,
    pub sending_enabled: bool,
    pub enforcement_status: Option<String>,
}

pub(super) async fn store(pool: &PgPool, account: &Account) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE email_sending_state
         SET max_send_rate = $1::float8, max_24h_send = $2::float8, sent_24h = $3::float8, sending_enabled = $4, enforcement_status = $5,
             fetched_at = clock_timestamp()",
        account.max_send_rate,
        account.max_24h_send,
        account.sent_24h,
        account.sending_enabled,
        account.enforcement_status,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Reserves `mails` on a lane: one statement, about four a second and worker. Commits asynchronously: a crash of the database ends
/// every call that the reservation was for.
pub(super) async fn reserve(pool: &PgPool, lane: Lane, rate: f64, mails: usize) -> Result<Reservation, Error> {
    let length = mails as f64 / rate;
    let granted = sqlx::query_scalar!(
        r#"WITH loose AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
           UPDATE email_rate_limits
           SET next_free_at = greatest(next_free_at, clock_timestamp() - make_interval(secs => (burst - 1) / $3::float8)) + make_interval(secs => $2),
               rate_per_sec = $3::float8
           FROM loose WHERE lane = $1 AND next_free_at <= clock_timestamp() + make_interval(secs => $4)
           RETURNING greatest(0, extract(epoch FROM next_free_at - clock_timestamp())::float8 - $2) AS "wait!""#,
        lane.name(),
        length,
        rate,
        lane.patience(),
    )
    .fetch_optional(pool)
    .await?;
    if let Some(wait) = granted {
        return Ok(Reservation::Granted(Slot {
            wait: Duration::from_secs_f64(wait),
            rate,
        }));
    }
    let free = sqlx::query_scalar!(
        "SELECT next_free_at FROM email_rate_limits WHERE lane = $1",
        lane.name()
    )
    .fetch_one(pool)
    .await?;
    Ok(Reservation::Full(free))
}

/// SES said "too fast": the lane pauses for a second from now, however many answers say so at once, and bulk mail goes at half its
/// rate for a minute. Returns when the lane is free again.
pub(super) async fn slow_down(pool: &PgPool, lane: Lane) -> Result<Timestamp, Error> {
    let free = sqlx::query_scalar!(
        r#"WITH factor AS (
               UPDATE email_sending_state
               SET throttle_factor = greatest(0.1, 0.5 * least(1, throttle_factor
                       + 0.1 * greatest(0, floor((coalesce(extract(epoch FROM clock_timestamp() - throttled_at), 0) - 60) / 30)))),
                   throttled_at = clock_timestamp()
               WHERE throttled_at IS NULL OR throttled_at < clock_timestamp() - interval '1 second'
           )
           UPDATE email_rate_limits SET next_free_at = greatest(next_free_at, clock_timestamp() + interval '1 second')
           WHERE lane = $1 RETURNING next_free_at"#,
        lane.name(),
    )
    .fetch_one(pool)
    .await?;
    Ok(free)
}
