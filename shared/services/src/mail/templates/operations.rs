//! What the operators must know.

use serde::Deserialize;

use super::line::Line;
use super::mail;

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
