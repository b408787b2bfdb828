//! Every job and endpoint, by domain. This file reads like a table of contents; the numbers' sources are the spec sections
//! of the same names.

use crate::endpoint::Endpoint;
use crate::messages::*;
use crate::spec::Use::{Database, Mail, Media, Storage, StorageDeletion, UnsubscribeKey};
use crate::spec::{Backoff, Cron, Job, Priority, Schedule, Spec, Topic, days, mb, millis, minutes, secs};
use crate::sweep::Sweep;

/// All declarations, in the order of this file.
pub const ALL: &[&Spec] = &[
    NOTIFICATION_DELIVERY.spec(),
    NOTIFICATION_DIGEST.spec(),
    MESSAGE_DIGEST.spec(),
    NOTIFICATION_CLEANUP.spec(),
    EMAIL_DISPATCH.spec(),
    EMAIL_DIGEST.spec(),
    EMAIL_EVENTS.spec(),
    ANALYTICS_ENRICH_EVENT.spec(),
    ANALYTICS_AGGREGATE.spec(),
    METRICS_AGGREGATION.spec(),
    WEEKLY_MONTHLY_METRICS_AGGREGATION.spec(),
    ASSET_VIRUS_SCAN.spec(),
    ASSET_THUMBNAIL_GENERATION.spec(),
    ASSET_METADATA_EXTRACTION.spec(),
    ASSET_PREVIEW_GENERATION.spec(),
    ASSET_FORMAT_CONVERSION.spec(),
    UPLOAD_CLEANUP.spec(),
    STORAGE_METRICS_CALCULATION.spec(),
    TOKEN_CLEANUP.spec(),
    SESSION_CLEANUP.spec(),
    FAILED_LOGIN_MONITOR.spec(),
    PASSWORD_SECURITY_CLEANUP.spec(),
    SEARCH_INDEX_UPDATE.spec(),
    SEARCH_INDEX_BULK_UPDATE.spec(),
    SEARCH_INDEX_REINDEX.spec(),
    OUTBOX_RELAY.spec(),
    IDEMPOTENCY_CLEANUP.spec(),
    JOB_HISTORY_CLEANUP.spec(),
];

/// All endpoints, in the order of this file.
pub const ENDPOINTS: &[&Endpoint] = &[&UNSUBSCRIBE];

/// The names of all functions: jobs, then endpoints.
pub fn functions() -> impl Iterator<Item = &'static str> {
    let jobs = ALL.iter().filter(|spec| !spec.awaits_function).map(|spec| spec.name());
    jobs.chain(ENDPOINTS.iter().map(|endpoint| endpoint.name()))
}

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

/// See the message's text.
pub const NOTIFICATION_DIGEST: Job<SendDigests> = digest("notifications/notification-digest")
    .about("Sends each user one e-mail a day or week with the unread notifications that no e-mail carried");

/// See the message's text.
pub const MESSAGE_DIGEST: Job<SendDigests> = digest("notifications/message-digest")
    .about("Sends each user one e-mail a day or week with the unread messages, by conversation");

/// Zones are off by halves and quarters of an hour.
const EVERY_QUARTER_HOUR: &[Schedule] = &[Schedule {
    name: "tick",
    cron: Cron::utc("0/15 * * * ? *"),
    message: r#"{"frequency":"ALL"}"#,
}];

/// A job that sends digests.
const fn digest(path: &'static str) -> Job<SendDigests> {
    Job::new(path)
        .priority(Priority::Scheduled)
        .attempts(2, Backoff::Fixed(secs(60)))
        .timeout(minutes(15))
        .minimum(minutes(3))
        .memory(mb(512))
        // Two for the pages, of which two are claimed at a time.
        .connections(3)
        .uses(&[Database, Mail])
        .schedules(EVERY_QUARTER_HOUR)
        .load(1, secs(60))
}
/// Spec: comms, `notification-cleanup`.
pub const NOTIFICATION_CLEANUP: Job<SweepNotifications> = Job::new("notifications/notification-cleanup")
    .about("Deletes notifications past their retention, and trims the mail ledger")
    .attempts(3, Backoff::exponential(secs(60)))
    .timeout(minutes(15))
    .minimum(secs(180))
    .memory(mb(256))
    .schedules(&[Schedule {
        name: "daily",
        cron: Cron::utc("0 3 * * ? *"),
        message: "{}",
    }])
    .load(1, secs(60));

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
pub const EMAIL_DIGEST: Job<SendDigests> =
    digest("email/email-digest").about("Sends the e-mails that were held for a user as one e-mail a day or week");

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
    .topics(&[Topic::MailFeedback])
    .load(200, millis(400));

/// Where the unsubscribe links of mails lead.
pub const UNSUBSCRIBE: Endpoint = Endpoint::new("email/unsubscribe")
    .about("Answers the unsubscribe links of mails: a page for people, one click for mail programs")
    .concurrency(20)
    .uses(&[UnsubscribeKey])
    .sends_to(&["email-events"]);
// analytics ----------------------------------------------------------------------------------------------

/// See the message's text.
pub const ANALYTICS_ENRICH_EVENT: Job<EnrichEvent> = Job::new("analytics/analytics-enrich-event")
    .about("Enriches events: device, session, attribution, what they are about, duplicates")
    .priority(Priority::NearRealTime)
    .attempts(3, Backoff::exponential(secs(5)))
    .concurrency(5)
    .batch(100)
    .window(secs(1))
    .timeout(minutes(1))
    .memory(mb(256))
    .load(400, secs(1));

/// See the message's text.
pub const ANALYTICS_AGGREGATE: Job<AggregateEvents> = Job::new("analytics/analytics-aggregate")
    .about("Aggregates events into hours, days and the days of posts")
    .priority(Priority::Background)
    .attempts(3, Backoff::exponential(secs(60)))
    .timeout(minutes(15))
    .minimum(minutes(3))
    .memory(mb(512))
    .schedules(&[
        Schedule {
            name: "hourly",
            cron: Cron::utc("5 * * * ? *"),
            message: r#"{"action":"hourly"}"#,
        },
        Schedule {
            name: "daily",
            cron: Cron::utc("0 2 * * ? *"),
            message: r#"{"action":"daily"}"#,
        },
        Schedule {
            name: "post-daily",
            cron: Cron::utc("0 3 * * ? *"),
            message: r#"{"action":"post_daily"}"#,
        },
    ])
    .load(1, secs(60));

/// See the message's text.
pub const METRICS_AGGREGATION: Job<AggregateMetrics> = Job::new("analytics/metrics-aggregation")
    .about("Rolls up the last closed week and month from daily rows")
    .priority(Priority::Background)
    .attempts(3, Backoff::exponential(secs(120)))
    .timeout(minutes(15))
    .minimum(minutes(3))
    .memory(mb(512))
    .sends_to(&["analytics-aggregate"])
    .schedules(&[
        Schedule {
            name: "weekly",
            cron: Cron::utc("0 4 ? * MON *"),
            message: r#"{"jobType":"weekly"}"#,
        },
        Schedule {
            name: "monthly",
            cron: Cron::utc("0 5 2 * ? *"),
            message: r#"{"jobType":"monthly"}"#,
        },
    ])
    .load(1, secs(60));

/// See the message's text.
pub const WEEKLY_MONTHLY_METRICS_AGGREGATION: Job<ReconcileMetrics> =
    Job::new("analytics/weekly-monthly-metrics-aggregation")
        .about("Repairs, fills, verifies and compares weekly and monthly roll-ups")
        .priority(Priority::Background)
        .attempts(3, Backoff::exponential(secs(120)))
        .timeout(minutes(15))
        .minimum(minutes(3))
        .memory(mb(512))
        .schedules(&[Schedule {
            name: "reconcile",
            cron: Cron::utc("30 5 * * ? *"),
            message: r#"{"action":"reconcile"}"#,
        }])
        .load(1, secs(60));
// assets -------------------------------------------------------------------------------------------------

/// Spec: assets, `asset-virus-scan`.
pub const ASSET_VIRUS_SCAN: Job<ScanAsset> = Job::new("assets/asset-virus-scan")
    .about("Decides whether uploaded bytes may enter the system")
    .priority(Priority::UserFacing)
    .attempts(3, Backoff::exponential(secs(5)))
    .concurrency(3)
    .timeout(minutes(10))
    .memory(mb(4096))
    .load(1, secs(3))
    .awaits_function();

/// Spec: assets, `asset-thumbnail-generation`.
pub const ASSET_THUMBNAIL_GENERATION: Job<ProcessAsset> = Job::new("assets/asset-thumbnail-generation")
    .about("Draws three thumbnails of an image, a video or a document")
    .priority(Priority::NearRealTime)
    .attempts(3, Backoff::exponential(secs(5)))
    .concurrency(20)
    .timeout(minutes(2))
    .memory(mb(2048))
    .load(5, secs(3))
    .awaits_function();

/// Spec: assets, `asset-metadata-extraction`.
pub const ASSET_METADATA_EXTRACTION: Job<ProcessAsset> = Job::new("assets/asset-metadata-extraction")
    .about("Reads what a file says of itself: sizes, tags, text, the waveform of a sound")
    .priority(Priority::NearRealTime)
    .attempts(3, Backoff::exponential(secs(5)))
    .concurrency(20)
    .timeout(minutes(2))
    .memory(mb(2048))
    .load(5, secs(3))
    .awaits_function();

/// Spec: assets, `asset-preview-generation`.
pub const ASSET_PREVIEW_GENERATION: Job<PreviewAsset> = Job::new("assets/asset-preview-generation")
    .about("Cuts a short clip out of a video or a sound")
    .priority(Priority::Background)
    .attempts(2, Backoff::exponential(secs(10)))
    .concurrency(5)
    .timeout(minutes(7))
    .minimum(secs(40))
    .memory(mb(3072))
    .ephemeral_storage(mb(2048))
    .uses(&[Database, Storage, Media])
    .sends_to(&["asset-virus-scan"])
    .load(1, secs(5));

/// Spec: assets, `asset-format-conversion`.
pub const ASSET_FORMAT_CONVERSION: Job<ConvertAsset> = Job::new("assets/asset-format-conversion")
    .about("Makes the variants of a file that browsers and phones want")
    .priority(Priority::Background)
    .attempts(2, Backoff::exponential(secs(30)))
    .concurrency(5)
    .timeout(minutes(15))
    .memory(mb(6144))
    .load(1, secs(5))
    .awaits_function();

/// Spec: assets, `upload-cleanup`.
pub const UPLOAD_CLEANUP: Job<SweepUploads> = Job::new("assets/upload-cleanup")
    .about("Removes abandoned, failed and old infected uploads, and revives stuck scans")
    .attempts(2, Backoff::exponential(secs(30)))
    .timeout(minutes(15))
    .minimum(secs(60))
    .memory(mb(512))
    .uses(&[Database, StorageDeletion])
    .sends_to(&[
        "asset-virus-scan",
        "asset-thumbnail-generation",
        "asset-metadata-extraction",
        "asset-preview-generation",
        "asset-format-conversion",
    ])
    .schedules(&[Schedule {
        name: "hourly",
        cron: Cron::utc("0 * * * ? *"),
        message: "{}",
    }])
    .load(1, secs(60));

/// Spec: assets, `storage-metrics-calculation`.
pub const STORAGE_METRICS_CALCULATION: Job<MeasureStorage> = Job::new("assets/storage-metrics-calculation")
    .about("Measures once a day what is stored for platform, users, projects and brands")
    .priority(Priority::Scheduled)
    .attempts(3, Backoff::exponential(secs(60)))
    .timeout(minutes(15))
    .minimum(secs(60))
    .memory(mb(512))
    .schedules(&[Schedule {
        name: "daily",
        cron: Cron::utc("0 2 * * ? *"),
        message: "{}",
    }])
    .load(1, secs(60));

// accounts -----------------------------------------------------------------------------------------------

/// Spec: platform, `token-cleanup`.
pub const TOKEN_CLEANUP: Job<Sweep> = Job::new("accounts/token-cleanup")
    .about("Deletes authentication tokens that nobody can use any more")
    .attempts(3, Backoff::exponential(secs(30)))
    .timeout(minutes(5))
    .minimum(secs(60))
    .memory(mb(256))
    .schedules(&[Schedule {
        name: "hourly",
        cron: Cron::utc("0 * * * ? *"),
        message: "{}",
    }])
    .load(1, secs(60));

/// Spec: platform, `session-cleanup`.
pub const SESSION_CLEANUP: Job<Sweep> = Job::new("accounts/session-cleanup")
    .about("Drops expired sessions, ends idle ones, and forgets those that ended long ago")
    .attempts(3, Backoff::exponential(secs(30)))
    .timeout(minutes(5))
    .minimum(secs(60))
    .memory(mb(256))
    .schedules(&[Schedule {
        name: "every-six-hours",
        cron: Cron::utc("0 0/6 * * ? *"),
        message: "{}",
    }])
    .load(1, secs(60));

/// Spec: platform, `failed-login-monitor`.
pub const FAILED_LOGIN_MONITOR: Job<Sweep> = Job::new("accounts/failed-login-monitor")
    .about("Tells security of suspicious log-ins, and locks accounts that are under attack")
    .priority(Priority::NearRealTime)
    .attempts(3, Backoff::exponential(secs(15)))
    .timeout(minutes(2))
    .minimum(secs(30))
    .memory(mb(256))
    .uses(&[Database, Mail])
    .schedules(&[Schedule {
        name: "tick",
        cron: Cron::utc("0/15 * * * ? *"),
        message: "{}",
    }])
    .load(1, secs(30));

/// Spec: platform, `password-security-cleanup`.
pub const PASSWORD_SECURITY_CLEANUP: Job<Sweep> = Job::new("accounts/password-security-cleanup")
    .about("Removes stale remember-me tokens and ends lock-outs that are over")
    .attempts(3, Backoff::exponential(secs(30)))
    .timeout(minutes(2))
    .minimum(secs(30))
    .memory(mb(256))
    .schedules(&[Schedule {
        name: "tick",
        cron: Cron::utc("0/15 * * * ? *"),
        message: "{}",
    }])
    .load(1, secs(60));
// search -------------------------------------------------------------------------------------------------

/// See the message's text.
pub const SEARCH_INDEX_UPDATE: Job<UpdateSearchIndex> = Job::new("search/search-index-update")
    .about("Puts one row right in the search index, and asks for the rows whose text comes from it")
    .priority(Priority::NearRealTime)
    .attempts(3, Backoff::exponential(secs(5)))
    .concurrency(20)
    // One statement a batch, whatever is in it.
    .batch(100)
    .window(secs(1))
    .timeout(secs(30))
    .memory(mb(512))
    .sends_to(&["search-index-bulk-update"])
    .load(1000, secs(1));

/// See the message's text.
pub const SEARCH_INDEX_BULK_UPDATE: Job<BulkUpdateSearchIndex> = Job::new("search/search-index-bulk-update")
    .about("Puts many rows right in the search index: a list, or all of a brand, an asset or a project")
    .priority(Priority::Background)
    .attempts(3, Backoff::exponential(secs(10)))
    .concurrency(5)
    .timeout(minutes(5))
    .minimum(secs(30))
    .memory(mb(512))
    .load(5, secs(1));

/// See the message's text.
pub const SEARCH_INDEX_REINDEX: Job<ReindexSearch> = Job::new("search/search-index-reindex")
    .about("Goes through everything that can be found, and writes what is wrong in the search index")
    .priority(Priority::Background)
    .attempts(2, Backoff::Fixed(secs(300)))
    .timeout(minutes(15))
    // Twelve minutes of work, then a new message.
    .minimum(minutes(3))
    .memory(mb(512))
    // Two looks at a time: comparing is all computing, by the database.
    .connections(3)
    .schedules(&[Schedule {
        name: "weekly",
        cron: Cron::utc("0 3 ? * SUN *"),
        message: "{}",
    }])
    .load(1, minutes(12));

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
    // Every minute: a day of successes is enough.
    .history(days(1), days(30))
    .load(1, secs(5));

/// Spec: platform, `idempotency-cleanup`.
pub const IDEMPOTENCY_CLEANUP: Job<Sweep> = Job::new("system/idempotency-cleanup")
    .about("Deletes idempotency keys that have expired")
    .attempts(3, Backoff::exponential(secs(30)))
    .timeout(minutes(5))
    .minimum(secs(60))
    .memory(mb(256))
    .schedules(&[Schedule {
        name: "every-six-hours",
        cron: Cron::utc("0 0/6 * * ? *"),
        message: "{}",
    }])
    .load(1, secs(60));

/// Retention of each job is its own [`crate::History`].
pub const JOB_HISTORY_CLEANUP: Job<Sweep> = Job::new("system/job-history-cleanup")
    .about("Forgets runs, and messages that no queue takes, when their retention has passed")
    .attempts(3, Backoff::exponential(secs(30)))
    .timeout(minutes(5))
    .minimum(secs(60))
    .memory(mb(256))
    .schedules(&[Schedule {
        name: "daily",
        cron: Cron::utc("30 1 * * ? *"),
        message: "{}",
    }])
    .load(1, secs(60));
