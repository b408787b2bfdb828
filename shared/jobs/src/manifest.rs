use serde_json::{Value, json};

use crate::catalog;
use crate::spec::{Backoff, Schedule, Spec};

/// Every declaration with everything that follows from it, as `infra/catalog.json` holds it.
pub fn manifest() -> Value {
    json!({"version": 1, "jobs": catalog::ALL.iter().map(|spec| entry(spec)).collect::<Vec<_>>()})
}

fn entry(spec: &Spec) -> Value {
    json!({
        "name": spec.name(),
        "domain": spec.domain(),
        "summary": spec.about,
        "priority": spec.priority,
        "attempts": spec.attempts,
        "backoff": match spec.backoff {
            Backoff::Fixed(wait) => json!({"kind": "fixed", "baseSeconds": wait.as_secs()}),
            Backoff::Exponential { base, max } => json!({"kind": "exponential", "baseSeconds": base.as_secs(), "maxSeconds": max.as_secs()}),
        },
        "concurrency": spec.concurrency,
        "batch": {"size": spec.batch, "windowSeconds": spec.window.as_secs()},
        "timeoutSeconds": spec.timeout.as_secs(),
        "memoryMb": spec.memory_mb,
        "leaseSeconds": spec.lease().as_secs(),
        "uses": spec.uses,
        "sendsTo": spec.sends_to,
        "schedules": spec.schedules.iter().map(schedule).collect::<Vec<_>>(),
        "queue": {
            "visibilityTimeoutSeconds": spec.visibility_timeout().as_secs(),
            "maxReceiveCount": spec.max_receive_count(),
            "retentionSeconds": spec.retention().as_secs(),
            "deadLetterRetentionSeconds": spec.dead_letter_retention().as_secs(),
        },
        "alarms": {"oldestMessageSeconds": spec.priority.oldest_message().as_secs(), "deadLetters": 1},
        "logRetentionDays": 30,
        "messageSchema": (spec.schema)(),
    })
}

fn schedule(schedule: &Schedule) -> Value {
    json!({
        "name": schedule.name,
        "expression": format!("cron({})", schedule.cron.fields),
        "timezone": schedule.cron.time_zone,
        "message": schedule.body("<aws.scheduler.scheduled-time>"),
    })
}
