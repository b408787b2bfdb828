//! Every job, by domain. This file reads like a table of contents; the numbers' sources are the spec sections
//! of the same names.

use crate::messages::*;
use crate::spec::Use::{Database, Mail, UnsubscribeKey};
use crate::spec::{Backoff, Cron, Job, Priority, Schedule, Spec, mb, millis, minutes, secs};

/// All declarations, in the order of this file.
pub const ALL: &[&Spec] = &[
    NOTIFICATION_DELIVERY.spec(),
    EMAIL_DISPATCH.spec(),
    EMAIL_EVENTS.spec(),
    OUTBOX_RELAY.spec(),
];

/// The declaration of a job by its name.
pub fn find(name: &str) -> Option<&'static Spec> {
    ALL.iter().copied().find(|spec| spec.name() == name)
}

// notifications ------------------------------------------------------------------------------------------

/// See the message's text.
pub const NOTIFICATION_DELIVERY: Job<DeliverNotification> = Job::new("notifications/notification-delivery")
    .about("Delivers one notification: visible in the app, and at most one e-mail")
    .priority(Priority::UserFacing)
    .attempts(3, Backoff::exponential(secs(2)))
    .concurrency(10)
    .batch(10)
    .timeout(secs(30))
    .memory(mb(256))
    .uses(&[Database, Mail])
    .load(100, millis(500));

// email --------------------------------------------------------------------------------------------------

/// See the message's text.
pub const EMAIL_DISPATCH: Job<DispatchEmail> = Job::new("email/email-dispatch")
    .about("Sends what is due in the mail ledger: retries, deferred and scheduled mail")
    .priority(Priority::NearRealTime)
    .attempts(3, Backoff::exponential(secs(10)))
    .timeout(minutes(5))
    .memory(mb(512))
    .uses(&[Database, Mail])
    .sends_to(&["notification-delivery"])
    .schedules(&[Schedule {
        name: "tick",
        cron: Cron::utc("* * * * ? *"),
        message: "{}",
    }])
    .load(1, secs(60));

/// See the message's text.
pub const EMAIL_EVENTS: Job<EmailEvent> = Job::new("email/email-events")
    .about(
        "Applies what SES reports of mails, and what recipients ask for: delivery, suppression, preferences, campaigns",
    )
    .priority(Priority::NearRealTime)
    .attempts(5, Backoff::exponential(secs(2)))
    .concurrency(10)
    .batch(10)
    .timeout(secs(30))
    .memory(mb(256))
    .uses(&[Database, UnsubscribeKey])
    .load(200, millis(400));

// system -------------------------------------------------------------------------------------------------

/// See the message's text.
pub const OUTBOX_RELAY: Job<RelayOutbox> = Job::new("system/outbox-relay")
    .about("Sends the outbox rows that a crash left behind")
    .priority(Priority::NearRealTime)
    .attempts(3, Backoff::exponential(secs(10)))
    .timeout(minutes(1))
    .memory(mb(256))
    .sends_to(&["*"])
    .schedules(&[Schedule {
        name: "tick",
        cron: Cron::utc("* * * * ? *"),
        message: "{}",
    }])
    .load(1, secs(5));
