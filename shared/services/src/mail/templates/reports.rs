//! What a month or a report says in figures.

use serde::Deserialize;

use super::line::{Line, Name};
use super::money::Currency;
use super::number::count;
use super::{Brief, InBrief, filters, mail};

/// How a creator's month was.
#[derive(Deserialize)]
pub(super) struct CreatorMonth {
    #[serde(default)]
    creator_name: Name,
    month: Line,
    earnings_cents: i64,
    currency: Currency,
    new_licenses: u64,
    profile_views: u64,
    active_licenses: u64,
    analytics_url: String,
}

mail!(
    CreatorMonth,
    "reports/creator-monthly-report.html",
    "reports/creator-monthly-report.txt",
    |mail, _| { format!("{} performance report", mail.month) }
);

impl InBrief for CreatorMonth {
    fn in_brief(&self) -> Brief {
        Brief {
            title: format!("{} performance report", self.month),
            summary: format!(
                "You earned {}, with {} and {}.",
                self.currency.amount(self.earnings_cents),
                count(self.new_licenses, "new license"),
                count(self.profile_views, "profile view"),
            ),
            url: self.analytics_url.clone(),
        }
    }
}
