//! What the operators must know.

use serde::Deserialize;

use super::date::Date;
use super::line::Line;
use super::number::grouped;
use super::{filters, mail};

/// Deliverability needs a human.
#[derive(Deserialize)]
pub(super) struct EmailAlert {
    severity: Line,
    alerts: Vec<Alert>,
    dashboard_url: String,
}

/// A check that measures nothing, such as a blocklist, has no value and no threshold.
#[derive(Deserialize)]
struct Alert {
    #[serde(rename = "type")]
    kind: Line,
    metric: Option<Line>,
    current_value: Option<f64>,
    threshold: Option<f64>,
    period: Option<Line>,
    recommendation: Option<String>,
}

mail!(
    EmailAlert,
    "operations/email-alert.html",
    "operations/email-alert.txt",
    |mail, _| {
        let plural = if mail.alerts.len() == 1 { "" } else { "s" };
        format!("Email alert: {} issue{plural}", mail.alerts.len())
    }
);

/// Suspicious log-ins need a human.
#[derive(Deserialize)]
pub(super) struct SecurityAlert {
    window_start: Date,
    window_end: Date,
    alerts: Vec<Suspicion>,
    /// Alerts that are not listed.
    more_count: u64,
}

/// An address, and how often it failed.
#[derive(Deserialize)]
struct Suspicion {
    #[serde(rename = "type")]
    kind: Line,
    subject: Line,
    severity: Line,
    attempts: u32,
}

mail!(
    SecurityAlert,
    "operations/security-alert.html",
    "operations/security-alert.txt",
    |mail, _| {
        let count = mail.alerts.len() as u64 + mail.more_count;
        format!(
            "Security alert: {} suspicious address{}",
            grouped(count),
            if count == 1 { "" } else { "es" }
        )
    }
);

impl Suspicion {
    fn says(&self) -> String {
        let what = match &*self.kind {
            "ip_spray" => "failed log-ins to several accounts",
            _ => "failed log-ins",
        };
        format!("{}: {} {what}", self.severity, grouped(self.attempts))
    }
}

impl Alert {
    fn name(&self) -> String {
        self.metric.as_ref().unwrap_or(&self.kind).replace('_', " ")
    }

    /// A rate is stored as a fraction and read as a percentage.
    fn show(&self, value: &f64) -> String {
        let hundredths = |value: f64| (value * 100.0).round() / 100.0;
        match self.kind.ends_with("_rate") || &*self.kind == "quota" {
            true => format!("{}%", hundredths(value * 100.0)),
            false => hundredths(*value).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn rates_are_percentages_and_scores_are_not() {
        for (kind, value, text) in [
            ("bounce_rate", 0.031, "3.1%"),
            ("complaint_rate", 0.0011, "0.11%"),
            ("quota", 0.8, "80%"),
            ("reputation_score", 70.0, "70"),
        ] {
            let alert: Alert = from_value(json!({ "type": kind })).unwrap();
            assert_eq!(alert.show(&value), text);
        }
    }
}
