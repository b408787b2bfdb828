//! What became of mails that SES took, written into the ledger (spec: comms, C1 and `email-events`).
//!
//! Events arrive in any order and more than once, and the row must end the same: ranks never fall, and of two times the earlier stays.

use sqlx::PgConnection;

use crate::{Error, Timestamp};

/// How far a mail has come; see [`Feedback::rank`].
pub mod rank {
    /// SES took it.
    pub const SENT: i16 = 10;
    /// It waits at SES.
    pub const DELAYED: i16 = 15;
    /// The recipient's server took it.
    pub const DELIVERED: i16 = 20;
    /// Somebody opened it.
    pub const OPENED: i16 = 30;
    /// Somebody followed a link of it.
    pub const CLICKED: i16 = 40;
    /// It cannot be delivered.
    pub const BOUNCED: i16 = 50;
    /// SES did not send it after all.
    pub const REJECTED: i16 = 50;
    /// Somebody unsubscribed by it.
    pub const UNSUBSCRIBED: i16 = 55;
    /// Somebody called it spam.
    pub const COMPLAINED: i16 = 60;
}

/// Whether an address exists; only these two count in the rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BounceClass {
    /// It may take the next mail.
    Soft,
    /// It takes none, ever.
    Hard,
}

impl BounceClass {
    /// The name in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Hard => "hard",
        }
    }
}

/// What is known of one mail, of however many events. Times are those of the first event of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Feedback {
    /// How far it came: a constant of [`rank`].
    pub rank: i16,
    /// SES's id and time of it, if an event of SES is among them: that proves that SES took the mail, whatever we knew.
    pub accepted: Option<(String, Timestamp)>,
    /// The recipient's server took it.
    pub delivered_at: Option<Timestamp>,
    /// It was not there yet.
    pub delayed_at: Option<Timestamp>,
    /// Opened by a person.
    pub opened_at: Option<Timestamp>,
    /// Clicked by a person.
    pub clicked_at: Option<Timestamp>,
    /// It bounced.
    pub bounced_at: Option<Timestamp>,
    /// And so.
    pub bounce_class: Option<BounceClass>,
    /// It was called spam.
    pub complained_at: Option<Timestamp>,
    /// SES did not send it after all: when and why.
    pub rejected: Option<(Timestamp, String)>,
    /// Somebody unsubscribed by it.
    pub unsubscribed_at: Option<Timestamp>,
}

impl Feedback {
    /// Both together.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            rank: self.rank.max(other.rank),
            accepted: earlier(self.accepted, other.accepted, |(_, at)| *at),
            delivered_at: earlier(self.delivered_at, other.delivered_at, |at| *at),
            delayed_at: earlier(self.delayed_at, other.delayed_at, |at| *at),
            opened_at: earlier(self.opened_at, other.opened_at, |at| *at),
            clicked_at: earlier(self.clicked_at, other.clicked_at, |at| *at),
            bounced_at: earlier(self.bounced_at, other.bounced_at, |at| *at),
            bounce_class: self.bounce_class.max(other.bounce_class),
            complained_at: earlier(self.complained_at, other.complained_at, |at| *at),
            rejected: earlier(self.rejected, other.rejected, |(at, _)| *at),
            unsubscribed_at: earlier(self.unsubscribed_at, other.unsubscribed_at, |at| *at),
        }
    }
}

fn earlier<T>(a: Option<T>, b: Option<T>, at: impl Fn(&T) -> Timestamp) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if at(&b) < at(&a) { b } else { a }),
        (a, b) => a.or(b),
    }
}

/// Writes what is known of mails, and tells the notifications that own them, in one statement. The caller holds the rows locked.
///
/// A mail of which SES speaks was accepted: in doubt, given up as unconfirmed, about to be tried again or just being sent, it is `SENT`.
/// One that SES rejected is `FAILED`, and stays so.
pub async fn record(connection: &mut PgConnection, mails: &[(String, Feedback)]) -> Result<(), Error> {
    if mails.is_empty() {
        return Ok(());
    }
    let times = |time: fn(&Feedback) -> Option<Timestamp>| mails.iter().map(|(_, mail)| time(mail)).collect::<Vec<_>>();
    let texts = |text: fn(&Feedback) -> Option<String>| mails.iter().map(|(_, mail)| text(mail)).collect::<Vec<_>>();
    let ids: Vec<_> = mails.iter().map(|(id, _)| id.clone()).collect();
    let ranks: Vec<_> = mails.iter().map(|(_, mail)| mail.rank).collect();
    sqlx::query!(
        r#"WITH moved AS (
               UPDATE email_messages m
               SET status = CASE WHEN f.rejected_at IS NOT NULL THEN 'FAILED' WHEN f.proves THEN 'SENT' ELSE m.status END,
                   status_reason = CASE WHEN f.rejected_at IS NOT NULL THEN f.rejection WHEN f.proves THEN NULL ELSE m.status_reason END,
                   lease_until = CASE WHEN f.proves THEN NULL ELSE m.lease_until END,
                   ses_message_id = coalesce(m.ses_message_id, f.ses_message_id),
                   sent_at = CASE WHEN f.proves THEN coalesce(m.sent_at, f.sent_at) ELSE m.sent_at END,
                   delivery_rank = greatest(m.delivery_rank, f.rank),
                   -- LEAST knows no NULL, and 'hard' comes before 'soft'.
                   delivered_at = least(m.delivered_at, f.delivered_at), delayed_at = least(m.delayed_at, f.delayed_at),
                   first_opened_at = least(m.first_opened_at, f.opened_at), first_clicked_at = least(m.first_clicked_at, f.clicked_at),
                   bounced_at = least(m.bounced_at, f.bounced_at), bounce_class = least(m.bounce_class, f.bounce_class),
                   complained_at = least(m.complained_at, f.complained_at), rejected_at = least(m.rejected_at, f.rejected_at),
                   unsubscribed_at = least(m.unsubscribed_at, f.unsubscribed_at), updated_at = clock_timestamp()
               FROM (SELECT f.*, old.status AS before,
                            f.ses_message_id IS NOT NULL AND (old.status IN ('UNCERTAIN', 'SENDING', 'PENDING')
                                OR (old.status = 'FAILED' AND old.status_reason = 'unconfirmed')) AS proves
                     FROM unnest($1::text[], $2::int2[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[], $7::timestamptz[],
                                 $8::timestamptz[], $9::timestamptz[], $10::text[], $11::timestamptz[], $12::timestamptz[], $13::text[],
                                 $14::timestamptz[])
                         AS f (id, rank, ses_message_id, sent_at, delivered_at, delayed_at, opened_at, clicked_at, bounced_at, bounce_class,
                               complained_at, rejected_at, rejection, unsubscribed_at)
                     JOIN email_messages old ON old.id = f.id) f
               WHERE m.id = f.id
               RETURNING m.id, m.notification_id, m.status, m.status_reason, m.sent_at, f.before
           )
           UPDATE notifications n
           SET email_state = m.status, email_state_reason = m.status_reason, emailed_at = CASE WHEN m.status = 'SENT' THEN m.sent_at END
           FROM moved m
           WHERE n.id = m.notification_id AND n.email_message_id = m.id AND m.status <> m.before AND m.status IN ('SENT', 'FAILED')"#,
        &ids,
        &ranks,
        &texts(|mail| mail.accepted.as_ref().map(|(id, _)| id.clone())) as _,
        &times(|mail| mail.accepted.as_ref().map(|(_, at)| *at)) as _,
        &times(|mail| mail.delivered_at) as _,
        &times(|mail| mail.delayed_at) as _,
        &times(|mail| mail.opened_at) as _,
        &times(|mail| mail.clicked_at) as _,
        &times(|mail| mail.bounced_at) as _,
        &texts(|mail| mail.bounce_class.map(|class| class.as_str().to_owned())) as _,
        &times(|mail| mail.complained_at) as _,
        &times(|mail| mail.rejected.as_ref().map(|(at, _)| *at)) as _,
        &texts(|mail| mail.rejected.as_ref().map(|(_, reason)| reason.clone())) as _,
        &times(|mail| mail.unsubscribed_at) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time() -> impl Strategy<Value = Option<Timestamp>> {
        proptest::option::of((0i64..5).prop_filter_map("a time", |seconds| Timestamp::from_timestamp(seconds, 0)))
    }

    fn feedback() -> impl Strategy<Value = Feedback> {
        (0i16..60, time(), time(), time(), any::<Option<bool>>()).prop_map(|(rank, sent, opened, bounced, hard)| {
            Feedback {
                rank,
                accepted: sent.map(|at| (at.to_rfc3339(), at)),
                opened_at: opened,
                bounced_at: bounced,
                bounce_class: hard.map(|hard| if hard { BounceClass::Hard } else { BounceClass::Soft }),
                ..Feedback::default()
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_known_does_not_depend_on_the_order(a in feedback(), b in feedback(), c in feedback()) {
            let all = a.clone().join(b.clone()).join(c.clone());
            prop_assert_eq!(&all, &c.clone().join(b.clone()).join(a.clone()));
            prop_assert_eq!(&all, &all.clone().join(a));
            prop_assert!(all.rank >= b.rank && (b.opened_at.is_none() || all.opened_at <= b.opened_at));
        }
    }
}
