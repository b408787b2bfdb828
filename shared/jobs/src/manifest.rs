use serde_json::{Value, json};

use crate::catalog;
use crate::endpoint::Endpoint;
use crate::spec::{Backoff, Schedule, Spec};

/// Logs tell what the ledger does not, and are asked soon or never.
const LOG_RETENTION_DAYS: u32 = 30;

/// Every declaration with everything that follows from it, as `infra/catalog.json` holds it.
pub fn manifest() -> Value {
    json!({
        "version": 1,
        "jobs": catalog::ALL.iter().map(|spec| entry(spec)).collect::<Vec<_>>(),
        "endpoints": catalog::ENDPOINTS.iter().map(|endpoint| endpoint_entry(endpoint)).collect::<Vec<_>>(),
    })
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
        "ephemeralStorageMb": spec.ephemeral_storage_mb,
        "connections": spec.connections,
        "leaseSeconds": spec.lease().as_secs(),
        "uses": spec.uses,
        "sendsTo": spec.sends_to,
        "schedules": spec.schedules.iter().map(schedule).collect::<Vec<_>>(),
        "topics": spec.topics,
        "queue": {
            "visibilityTimeoutSeconds": spec.visibility_timeout().as_secs(),
            "maxReceiveCount": spec.max_receive_count(),
            "retentionSeconds": spec.retention().as_secs(),
            "deadLetterRetentionSeconds": spec.dead_letter_retention().as_secs(),
        },
        "alarms": {"oldestMessageSeconds": spec.priority.oldest_message().as_secs(), "deadLetters": 1},
        "history": {"completedSeconds": spec.history.completed.as_secs(), "failedSeconds": spec.history.failed.as_secs()},
        "logRetentionDays": LOG_RETENTION_DAYS,
        "awaitsFunction": spec.awaits_function,
        "messageSchema": (spec.schema)(),
    })
}

fn endpoint_entry(endpoint: &Endpoint) -> Value {
    json!({
        "name": endpoint.name(),
        "domain": endpoint.domain(),
        "summary": endpoint.about,
        "concurrency": endpoint.concurrency,
        "timeoutSeconds": endpoint.timeout.as_secs(),
        "memoryMb": endpoint.memory_mb,
        "uses": endpoint.uses,
        "sendsTo": endpoint.sends_to,
        "logRetentionDays": LOG_RETENTION_DAYS,
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
