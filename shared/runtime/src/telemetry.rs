//! Logs as JSON lines with ids and never data; metrics as EMF lines on stdout, which CloudWatch reads without an agent.

use std::any::Any;
use std::cell::RefCell;
use std::time::Duration;

use serde_json::json;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

thread_local! {
    /// Where the last panic of this thread was; the payload itself does not know.
    static PANICKED_AT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Sets up logs for the process. `JOBS_LOG` is `info` unless set.
pub(crate) fn init() {
    let level = std::env::var("JOBS_LOG")
        .ok()
        .and_then(|level| level.parse().ok())
        .unwrap_or(tracing::Level::INFO);
    let filter = Targets::new()
        .with_default(tracing::Level::WARN)
        .with_targets(["runtime", "services", "job"].map(|target| (target, level)));
    let filter = own_crate()
        .into_iter()
        .fold(filter, |filter, name| filter.with_target(name, level));
    let layer = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false);
    // A second initialisation can only come from a test of this crate.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a handler panicked");
        PANICKED_AT.set(Some(place));
    }));
}

/// The crate of the binary, whose logs are wanted as well.
fn own_crate() -> Option<String> {
    let path = std::env::current_exe().ok()?;
    Some(path.file_name()?.to_str()?.replace('-', "_"))
}

/// What an operator reads of a panic.
pub(crate) fn describe_panic(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    let place = PANICKED_AT
        .take()
        .map(|place| format!(" at {place}"))
        .unwrap_or_default();
    format!("panicked{place}: {}", text.unwrap_or_else(|| "no message".into()))
}

/// What a log may show of a failure. A panic and a body that is no message quote what they met; the ledger and the DLQ, which hold data
/// anyway, keep the whole text.
pub(crate) fn discreet(failure: &str) -> &str {
    let quoting = ["invalid message", "panicked"];
    let ends = quoting.iter().filter_map(|mark| Some(failure.find(mark)? + mark.len()));
    ends.min().map_or(failure, |end| &failure[..end])
}

/// How the records of an invocation ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub done: u32,
    pub skipped: u32,
    pub continued: u32,
    pub deferred: u32,
    pub retried: u32,
    pub dead: u32,
    /// Settled before, running elsewhere, or handed back.
    pub not_run: u32,
    pub crashed: u32,
}

/// One metrics line for an invocation.
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>
pub(crate) fn emit(job: &str, records: usize, tally: Tally, took: Duration) {
    let count = |name| json!({"Name": name, "Unit": "Count"});
    let names = [
        "Records",
        "Done",
        "Skipped",
        "Continued",
        "Deferred",
        "Retried",
        "Dead",
        "NotRun",
        "Crashed",
    ];
    let mut metrics: Vec<_> = names.into_iter().map(count).collect();
    metrics.push(json!({"Name": "Duration", "Unit": "Milliseconds"}));
    let line = json!({
        "_aws": {
            "Timestamp": chrono::Utc::now().timestamp_millis(),
            "CloudWatchMetrics": [{"Namespace": "YesGoddess/Jobs", "Dimensions": [["job"]], "Metrics": metrics}],
        },
        "job": job, "Records": records, "Done": tally.done, "Skipped": tally.skipped, "Continued": tally.continued, "Deferred": tally.deferred,
        "Retried": tally.retried, "Dead": tally.dead, "NotRun": tally.not_run, "Crashed": tally.crashed, "Duration": took.as_secs_f64() * 1e3,
    });
    println!("{line}");
}

/// The trace of a W3C `traceparent`, or a new one.
pub(crate) fn trace_id(trace_parent: Option<&String>) -> String {
    let legal =
        |id: &&str| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) && id.bytes().any(|b| b != b'0');
    let given = trace_parent
        .and_then(|text| text.split('-').nth(1))
        .filter(legal)
        .map(str::to_ascii_lowercase);
    given.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>().max(1)))
}

/// The `traceparent` that outgoing messages carry.
/// <https://www.w3.org/TR/trace-context/>
pub(crate) fn trace_parent(trace_id: &str) -> String {
    format!("00-{trace_id}-{:016x}-01", rand::random::<u64>().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_shows_our_own_words_and_nothing_that_they_quote() {
        for (failure, shown) in [
            (
                "failed 3 times, at last: panicked at main.rs:1:1: no ann@example.test",
                "failed 3 times, at last: panicked",
            ),
            ("invalid message: unknown variant `ann@example.test`", "invalid message"),
            ("another run holds `index`", "another run holds `index`"),
        ] {
            assert_eq!(discreet(failure), shown);
        }
    }

    #[test]
    fn a_trace_goes_on_from_the_producer_and_garbage_begins_a_new_one() {
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned();
        assert_eq!(trace_id(Some(&given)), "4bf92f3577b34da6a3ce929d0e0e4736");
        for garbage in ["", "00", "00-x-y-z", "00-00000000000000000000000000000000-1-1"] {
            let fresh = trace_id(Some(&garbage.to_owned()));
            assert_eq!(fresh.len(), 32, "{garbage}");
            assert!(trace_parent(&fresh).contains(&fresh));
        }
    }
}
