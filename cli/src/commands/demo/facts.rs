//! What happened: every figure is read back from the database, the mailbox or the dead letters.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::cast::Cast;
use super::clip::Clip;
use super::wire::{DeadLetter, Mail, Wire};
use super::{JOB, REPEATED};

/// How far a demo is.
#[derive(Debug, Default, sqlx::FromRow)]
pub(super) struct Standing {
    #[sqlx(skip)]
    expected: i64,
    delivered: i64,
    mailed: i64,
    /// Mails that have not left, those for after quiet hours aside.
    pub(super) waiting: i64,
    ended: i64,
    /// Why mails wait.
    pub(super) reasons: Vec<String>,
}

impl Standing {
    pub(super) async fn read(database: &mut PgConnection, prefix: &str, expected: usize) -> Result<Self> {
        let standing: Self = sqlx::query_as(
            "SELECT count(n.in_app_at) AS delivered,
                    count(*) FILTER (WHERE n.email_state = 'SENT') AS mailed,
                    count(*) FILTER (WHERE w.waits) AS waiting,
                    coalesce(array_agg(DISTINCT m.status_reason) FILTER (WHERE w.waits AND m.status_reason IS NOT NULL), '{}') AS reasons,
                    (SELECT count(*) FROM job_runs
                     WHERE job = $2 AND starts_with(run_key, $1) AND status IN ('done', 'skipped', 'dead')) AS ended
             FROM notifications n
             LEFT JOIN email_messages m ON m.id = n.email_message_id
             CROSS JOIN LATERAL (SELECT m.status IN ('PENDING', 'SENDING') AND m.status_reason IS DISTINCT FROM 'quiet_hours' AS waits) w
             WHERE starts_with(n.id, $1)",
        )
        .bind(prefix)
        .bind(JOB)
        .fetch_one(database)
        .await
        .context("could not see how far it is")?;
        Ok(Self {
            expected: expected.try_into()?,
            ..standing
        })
    }

    pub(super) fn is_settled(&self) -> bool {
        self.open_runs() == 0 && self.waiting == 0
    }

    pub(super) fn open_runs(&self) -> i64 {
        self.expected - self.ended
    }

    pub(super) fn line(&self) -> String {
        format!(
            "{} delivered, {} mailed, {} waiting",
            self.delivered,
            self.mailed,
            self.open_runs().max(self.waiting)
        )
    }
}

/// How many, of what.
#[derive(Debug, PartialEq)]
pub(super) struct Count {
    pub(super) count: i64,
    pub(super) what: String,
}

/// The median, and what 95 % stay within; in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) most: f64,
}

/// Numbers of the ledger of runs.
#[derive(Debug)]
pub(super) struct Runs {
    pub(super) count: i64,
    pub(super) attempts: i64,
    pub(super) crashes: i64,
    pub(super) dead: i64,
    pub(super) took: Option<Spread>,
    /// From the queue to the app.
    pub(super) in_app: Option<Spread>,
    /// From the queue to SES's answer.
    pub(super) mailed: Option<Spread>,
    /// The same, of the very first notification.
    pub(super) first: Option<f64>,
    /// Mails a second.
    pub(super) pace: Option<f64>,
    /// What SES allows.
    pub(super) allowed: f64,
}

/// Something that must be so.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) holds: bool,
    pub(super) what: String,
}

/// Everything that the report tells.
pub(super) struct Facts {
    pub(super) notifications: i64,
    pub(super) in_app: i64,
    pub(super) mailed: Vec<Count>,
    pub(super) kept: Vec<Count>,
    pub(super) refused: Vec<Count>,
    pub(super) later: Vec<Count>,
    pub(super) sample: Option<Mail>,
    pub(super) dead_letters: Vec<DeadLetter>,
    pub(super) clip: Clip,
    pub(super) runs: Runs,
    pub(super) checks: Vec<Check>,
}

/// A row of the mail ledger.
#[derive(sqlx::FromRow)]
struct Entry {
    ses_message_id: Option<String>,
    template: String,
    notification_id: String,
    sent: bool,
}

impl Facts {
    pub(super) async fn read(
        database: &mut PgConnection,
        wire: &Wire<'_>,
        cast: &Cast,
        messages: usize,
        clip: Clip,
    ) -> Result<Self> {
        let (notifications, in_app) =
            sqlx::query_as("SELECT count(*), count(in_app_at) FROM notifications WHERE starts_with(id, $1)")
                .bind(&cast.prefix)
                .fetch_one(&mut *database)
                .await?;
        let entries: Vec<Entry> = sqlx::query_as(
            "SELECT ses_message_id, template, notification_id, status = 'SENT' AS sent FROM email_messages WHERE starts_with(notification_id, $1)",
        )
        .bind(&cast.prefix)
        .fetch_all(&mut *database)
        .await?;
        let runs = runs(database, cast).await?;
        let mails = wire.mails(&cast.domain).await?;
        let dead_letters = wire.dead_letters(&cast.prefix).await?;
        let mut facts = Self {
            notifications,
            in_app,
            mailed: Vec::new(),
            kept: Vec::new(),
            refused: Vec::new(),
            later: Vec::new(),
            sample: None,
            checks: checks(notifications, in_app, &entries, &mails, &dead_letters, &runs, messages),
            dead_letters,
            clip,
            runs,
        };
        facts.checks.push(facts.clip.check());
        for fate in fates(database, &cast.prefix).await? {
            facts.sort_in(fate);
        }
        let templates: HashMap<_, _> = entries
            .iter()
            .filter_map(|entry| Some((entry.ses_message_id.as_deref()?, entry.template.as_str())))
            .collect();
        let template = |mail: &Mail| templates.get(mail.message_id.as_str()).copied();
        let mut by_template = BTreeMap::new();
        for mail in &mails {
            *by_template
                .entry(template(mail).unwrap_or("not in the ledger"))
                .or_insert(0) += 1;
        }
        facts.mailed = by_template
            .into_iter()
            .map(|(template, count)| Count {
                count,
                what: template.to_owned(),
            })
            .collect();
        facts.sample = mails
            .iter()
            .find(|mail| template(mail) == Some("payout-confirmation"))
            .or(mails.first())
            .cloned();
        for counts in [&mut facts.mailed, &mut facts.kept, &mut facts.refused, &mut facts.later] {
            counts.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.what.cmp(&b.what)));
        }
        Ok(facts)
    }

    fn sort_in(&mut self, fate: Fate) {
        let reason = fate.reason.as_deref().unwrap_or_default();
        let (counts, what) = match (fate.state.as_str(), fate.mail.as_deref()) {
            // Counted in the mailbox.
            ("SENT", _) => return,
            ("DIGEST", _) if reason == "message_digest" => (
                &mut self.kept,
                "for the digest of messages, as the person wishes".into(),
            ),
            ("DIGEST", _) => (
                &mut self.kept,
                format!(
                    "for the {} digest, as the person wishes below high priority",
                    fate.digest.to_lowercase()
                ),
            ),
            ("QUEUED", Some("HELD")) => (
                &mut self.kept,
                format!(
                    "for the {} mail that bundles what can wait, as the person wishes",
                    fate.bundle.to_lowercase()
                ),
            ),
            ("QUEUED", Some("PENDING")) => {
                let until = fate.due.map(|due| due.format("%H:%M UTC").to_string());
                let what = format!("{}, until {}", sentence(reason), until.unwrap_or_default());
                (&mut self.later, what)
            }
            ("QUEUED", Some(status)) => (
                &mut self.later,
                format!("{}: {}", status.to_lowercase(), sentence(reason)),
            ),
            _ => (&mut self.refused, sentence(reason)),
        };
        // Two wishes may lead to the same sentence.
        match counts.iter_mut().find(|count| count.what == what) {
            Some(count) => count.count += fate.count,
            None => counts.push(Count {
                count: fate.count,
                what,
            }),
        }
    }
}

/// What became of some notifications.
#[derive(sqlx::FromRow)]
struct Fate {
    state: String,
    reason: Option<String>,
    mail: Option<String>,
    due: Option<DateTime<Utc>>,
    digest: String,
    bundle: String,
    count: i64,
}

async fn fates(database: &mut PgConnection, prefix: &str) -> Result<Vec<Fate>> {
    let fates = sqlx::query_as(
        "SELECT n.email_state AS state, coalesce(n.email_state_reason, m.status_reason) AS reason, m.status AS mail,
                CASE m.status WHEN 'PENDING' THEN m.next_attempt_at END AS due, p.digest_frequency AS digest, p.email_frequency AS bundle,
                count(*) AS count
         FROM notifications n
         JOIN email_preferences p USING (user_id)
         LEFT JOIN email_messages m ON m.id = n.email_message_id
         WHERE starts_with(n.id, $1)
         GROUP BY 1, 2, 3, 4, 5, 6",
    )
    .bind(prefix)
    .fetch_all(database)
    .await?;
    Ok(fates)
}

/// Percentiles and seconds, as the database computes them.
#[derive(sqlx::FromRow)]
struct Times {
    in_app: Option<Vec<f64>>,
    mailed: Option<Vec<f64>>,
    first: Option<f64>,
    pace: Option<f64>,
    allowed: f64,
}

async fn runs(database: &mut PgConnection, cast: &Cast) -> Result<Runs> {
    let (count, attempts, crashes, dead, took): (i64, i64, i64, i64, Option<Vec<f64>>) = sqlx::query_as(
        "SELECT count(*), coalesce(sum(attempts), 0), coalesce(sum(crashes), 0), count(*) FILTER (WHERE status = 'dead'),
                percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - started_at)::float8)
         FROM job_runs WHERE job = $1 AND starts_with(run_key, $2)",
    )
    .bind(JOB)
    .bind(&cast.prefix)
    .fetch_one(&mut *database)
    .await?;
    let times: Times = sqlx::query_as(
        "SELECT percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY seconds.to_app) AS in_app,
                percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY seconds.to_mail) AS mailed,
                max(seconds.to_mail) FILTER (WHERE n.id = $3) AS first,
                count(m.sent_at) FILTER (WHERE n.id <> $3)
                    / nullif(extract(epoch FROM max(m.sent_at) - min(r.first_seen_at) FILTER (WHERE n.id <> $3))::float8, 0) AS pace,
                (SELECT max_send_rate::float8 FROM email_sending_state) AS allowed
         FROM notifications n
         JOIN job_runs r ON r.job = $1 AND r.run_key = n.id
         LEFT JOIN email_messages m ON m.id = n.email_message_id
         CROSS JOIN LATERAL (SELECT extract(epoch FROM n.in_app_at - r.first_seen_at)::float8 AS to_app,
                                    extract(epoch FROM m.sent_at - r.first_seen_at)::float8 AS to_mail) seconds
         WHERE starts_with(n.id, $2)",
    )
    .bind(JOB)
    .bind(&cast.prefix)
    .bind(cast.notifications[0]["id"].as_str())
    .fetch_one(database)
    .await?;
    Ok(Runs {
        count,
        attempts,
        crashes,
        dead,
        took: spread(took),
        in_app: spread(times.in_app),
        mailed: spread(times.mailed),
        first: times.first,
        pace: times.pace,
        allowed: times.allowed,
    })
}

fn spread(percentiles: Option<Vec<f64>>) -> Option<Spread> {
    match percentiles?[..] {
        [median, most] => Some(Spread { median, most }),
        _ => None,
    }
}

fn checks(
    notifications: i64,
    in_app: i64,
    entries: &[Entry],
    mails: &[Mail],
    dead_letters: &[DeadLetter],
    runs: &Runs,
    messages: usize,
) -> Vec<Check> {
    let check = |holds, what| Check { holds, what };
    let accepted: HashSet<_> = mails.iter().map(|mail| &mail.message_id).collect();
    let sent: HashSet<_> = entries
        .iter()
        .filter(|entry| entry.sent)
        .filter_map(|entry| entry.ses_message_id.as_ref())
        .collect();
    // Each mail has an unsubscribe link or a subject of its own, so that equal texts to one address are one mail sent twice.
    let contents: HashSet<_> = mails
        .iter()
        .map(|mail| (&mail.to, &mail.subject, &mail.body_text))
        .collect();
    let mailed: HashSet<_> = entries.iter().map(|entry| &entry.notification_id).collect();
    vec![
        check(
            in_app == notifications,
            format!("all {notifications} notifications are in the app"),
        ),
        check(
            accepted == sent && accepted.len() == mails.len(),
            format!(
                "the mailbox has {} mails, the ledger says that {} were sent, and they are the same",
                mails.len(),
                sent.len()
            ),
        ),
        check(
            contents.len() == mails.len() && mailed.len() == entries.len(),
            format!("nobody got a mail twice, though {REPEATED} messages came twice"),
        ),
        check(
            usize::try_from(runs.count).is_ok_and(|count| count == messages)
                && runs.dead == 1
                && dead_letters.len() == 1,
            format!(
                "{} of {messages} messages had their run, and only the bad one is in the DLQ",
                runs.count
            ),
        ),
    ]
}

/// The ledger's reason for people; one that is not known here as it is.
fn sentence(reason: &str) -> String {
    let known = match reason {
        "in_app_only" => "low priority: the app is enough",
        "frequency_never" => "the person wants no mail below high priority",
        "category_off" => "the person switched the subject off",
        "channel_off" => "the person switched mails of this type off",
        "global_unsubscribe" => "the person unsubscribed from all mail",
        "email_unverified" => "the address was never confirmed",
        "user_inactive" => "the account is deactivated",
        "messages_off" => "the person wants no mail about messages",
        "thread_muted" => "the person muted the conversation",
        "cooldown" => "a mail about the same conversation left minutes before",
        "no_address" => "the person has no address",
        "invalid_address" => "the address can receive no mail",
        "bounce" => "mail to the address came back before",
        "complaint" => "the person complained about mail before",
        "unsubscribe" => "the address was unsubscribed",
        "quiet_hours" => "the person's quiet hours",
        other => other,
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str) -> Entry {
        Entry {
            ses_message_id: Some(id.into()),
            template: "notification".into(),
            notification_id: format!("demo-{id}"),
            sent: true,
        }
    }

    fn mail(id: &str, text: &str) -> Mail {
        Mail {
            message_id: id.into(),
            to: vec!["ada@x.demo.test".into()],
            subject: "News".into(),
            body_text: text.into(),
        }
    }

    /// Which of the checks hold, of two notifications with their mails and one dead letter.
    fn holds(in_app: i64, entries: &[Entry], mails: &[Mail], dead: i64) -> Vec<bool> {
        let runs = Runs {
            count: 3,
            attempts: 3,
            crashes: 0,
            dead,
            took: None,
            in_app: None,
            mailed: None,
            first: None,
            pace: None,
            allowed: 14.0,
        };
        let letter = DeadLetter {
            queue: String::new(),
            body: String::new(),
            attributes: HashMap::new(),
        };
        let checks = checks(2, in_app, entries, mails, &[letter], &runs, 3);
        checks.into_iter().map(|check| check.holds).collect()
    }

    #[test]
    fn every_check_can_fail() {
        let entries = || vec![entry("1"), entry("2")];
        let mails = || vec![mail("1", "a"), mail("2", "b")];
        assert_eq!(holds(2, &entries(), &mails(), 1), [true; 4]);
        assert_eq!(holds(1, &entries(), &mails(), 1), [false, true, true, true]);
        assert_eq!(holds(2, &entries(), &mails()[..1], 1), [true, false, true, true]);
        let twice = [mails(), vec![mail("3", "b")]].concat();
        assert_eq!(holds(2, &entries(), &twice, 1), [true, false, false, true]);
        let mut one_notification = entries();
        one_notification[1].notification_id = one_notification[0].notification_id.clone();
        assert_eq!(holds(2, &one_notification, &mails(), 1), [true, true, false, true]);
        assert_eq!(holds(2, &entries(), &mails(), 2), [true, true, true, false]);
    }
}
