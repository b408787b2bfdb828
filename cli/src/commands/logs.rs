//! `jobs logs`

use std::collections::HashSet;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use chrono::{DateTime, Local, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::enqueue::find;
use crate::aws::Aws;
use crate::environment::Target;

/// Show what the functions said.
#[derive(clap::Args)]
pub(crate) struct Logs {
    /// Only of this job.
    job: Option<String>,
    /// Keep showing what comes.
    #[arg(long, short)]
    follow: bool,
    /// From when: 90s, 10m, 2h, 1d or a time such as 2026-01-31T12:00:00Z.
    #[arg(long, default_value = "10m", value_parser = |text: &str| since(text, Utc::now()))]
    since: DateTime<Utc>,
    /// Print the lines as they are.
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    target: Target,
}

/// A line. All of it together tells it from the next one: the emulator gives no event ids.
#[derive(Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    log_stream_name: String,
    event_id: Option<String>,
    timestamp: i64,
    message: String,
}

impl Logs {
    pub(crate) async fn run(self) -> Result<()> {
        let jobs = match &self.job {
            Some(name) => match jobs::catalog::functions().find(|known| known == name) {
                Some(endpoint_or_job) => vec![endpoint_or_job],
                None => vec![find(name)?.name()],
            },
            None => jobs::catalog::functions().collect(),
        };
        let environment = self.target.environment()?;
        let aws = Aws::new(environment.aws().await)?;
        let mut from = self.since.timestamp_millis();
        let mut shown = HashSet::new();
        loop {
            let mut lines = Vec::new();
            for job in &jobs {
                let group = format!("/aws/lambda/{}", environment.queue(job));
                lines.extend(events(&aws, &group, from).await?.into_iter().map(|event| (job, event)));
            }
            // A late line may bear an earlier time: the last seconds are read again.
            lines.retain(|(_, event)| shown.insert(event.clone()));
            lines.sort_by_key(|(_, event)| event.timestamp);
            let mut out = std::io::stdout().lock();
            for (job, event) in &lines {
                for line in event.message.lines().filter(|line| self.raw || !is_platform(line)) {
                    match self.raw {
                        true => writeln!(out, "{line}")?,
                        false => writeln!(out, "{}", render(job, event.timestamp, line))?,
                    }
                }
            }
            drop(out);
            if !self.follow {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            from = from.max(Utc::now().timestamp_millis() - 30_000);
            shown.retain(|event: &Event| event.timestamp >= from);
        }
    }
}

/// The events of one log group, oldest first. A function that never ran has none.
async fn events(aws: &Aws, group: &str, from: i64) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    let mut input = json!({"logGroupName": group, "startTime": from});
    loop {
        let page = match aws.call("logs", "Logs_20140328.FilterLogEvents", &input).await {
            Err(error) if error.to_string().contains("ResourceNotFoundException") => return Ok(events),
            page => page.with_context(|| format!("could not read {group}"))?,
        };
        events.extend(Vec::<Event>::deserialize(&page["events"])?);
        match page["nextToken"].as_str() {
            Some(token) => input["nextToken"] = token.into(),
            None => return Ok(events),
        }
    }
}

/// Lambda's own lines around each invocation, and metrics for CloudWatch (EMF).
fn is_platform(line: &str) -> bool {
    const STARTS: [&str; 4] = ["START RequestId", "END RequestId", "REPORT RequestId", "INIT_START"];
    STARTS.iter().any(|start| line.starts_with(start))
        || line.contains("\"CloudWatchMetrics\":")
        || line.trim().is_empty()
}

/// One line of JSON as a person reads it: time, level, job, message, then the other fields.
fn render(job: &str, timestamp: i64, line: &str) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(line) else {
        return format!(
            "{}       {job}  {line}",
            clock(DateTime::from_timestamp_millis(timestamp))
        );
    };
    // tracing's JSON keeps the fields of the event apart from those of the line.
    if let Some(Value::Object(event)) = fields.remove("fields") {
        fields.extend(event);
    }
    let mut take = |name: &str| fields.remove(name).map(|value| text(&value)).unwrap_or_default();
    let time = take("timestamp")
        .parse::<DateTime<Utc>>()
        .ok()
        .or(DateTime::from_timestamp_millis(timestamp));
    let (level, message) = (take("level"), take("message"));
    let named = take("job");
    let job = if named.is_empty() { job } else { &named };
    take("target");
    format!("{} {level:5} {job}  {message}{}", clock(time), rest(&fields))
        .trim_end()
        .to_owned()
}

fn clock(time: Option<DateTime<Utc>>) -> String {
    time.map(|time| time.with_timezone(&Local).format("%H:%M:%S%.3f").to_string())
        .unwrap_or_default()
}

fn rest(fields: &Map<String, Value>) -> String {
    fields
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| format!("  {name}={}", text(value)))
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A moment, or how long ago it was.
fn since(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago = || -> Option<TimeDelta> {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let number = number.parse().ok()?;
        match unit {
            "s" => TimeDelta::try_seconds(number),
            "m" => TimeDelta::try_minutes(number),
            "h" => TimeDelta::try_hours(number),
            "d" => TimeDelta::try_days(number),
            _ => None,
        }
    };
    let ago = ago().ok_or_else(|| anyhow!("neither 90s, 10m, 2h, 1d nor a time such as 2026-01-31T12:00:00Z"))?;
    now.checked_sub_signed(ago).context("too long ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_line_reads_as_text() {
        let line = r#"{"timestamp":"2026-01-31T12:00:00.5Z","level":"WARN","fields":{"message":"could not mail","attempt":2},"target":"x","runKey":"r1"}"#;
        let text = render("notification-delivery", 0, line);
        assert!(
            text.ends_with(" WARN  notification-delivery  could not mail  attempt=2  runKey=r1"),
            "{text}"
        );
    }

    #[test]
    fn any_other_line_is_shown_as_it_is() {
        assert!(render("email-dispatch", 0, "Segmentation fault").ends_with("email-dispatch  Segmentation fault"));
    }

    #[test]
    fn since_takes_ages_and_times() {
        let now = DateTime::from_timestamp(1_769_860_800, 0).unwrap();
        assert_eq!((now - since("10m", now).unwrap()).num_seconds(), 600);
        assert_eq!(since("2026-01-31T12:00:00Z", DateTime::UNIX_EPOCH).unwrap(), now);
        for wrong in ["", "m", "10", "10y", "ü", "99999999999999999d"] {
            assert!(since(wrong, now).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lines_of_the_platform_are_left_out() {
        assert!(
            is_platform("START RequestId: 1 Version: $LATEST")
                && is_platform(r#"{"Done":1,"_aws":{"CloudWatchMetrics":[]}}"#)
        );
        assert!(!is_platform(r#"{"level":"INFO"}"#));
    }
}
