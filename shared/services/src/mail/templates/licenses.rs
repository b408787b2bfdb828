//! Licenses that come to their end.

use serde::Deserialize;

use super::date::Date;
use super::line::{Line, Name};
use super::mail;

/// A license ends in some number of days.
#[derive(Deserialize)]
pub(super) struct Expiry {
    #[serde(default)]
    user_name: Name,
    license_name: Line,
    expiry_date: Date,
    days_remaining: i64,
    license_url: String,
    brand_name: Option<Line>,
    renewal_url: Option<String>,
}

mail!(
    Expiry,
    "licenses/license-expiry.html",
    "licenses/license-expiry.txt",
    |mail, _| { format!("License expiring soon: {}", mail.license_name) }
);

/// The notice 90, 60 and 30 days before a license ends, and the last ones when it has ended. Three keys share it: the
/// days that really remain set the tone, not the stage that was due.
#[derive(Deserialize)]
pub(super) struct ExpiryNotice {
    #[serde(default)]
    user_name: Name,
    license_name: Line,
    brand_name: Line,
    expiry_date: Date,
    days_remaining: i64,
    license_url: String,
    recipient_role: Role,
    renewal_url: Option<String>,
    auto_renew_enabled: Option<bool>,
    grace_period_active: Option<bool>,
    expired: Option<bool>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Role {
    #[serde(alias = "BRAND")]
    Brand,
    #[serde(alias = "CREATOR")]
    Creator,
}

mail!(
    ExpiryNotice,
    "licenses/license-expiry-notice.html",
    "licenses/license-expiry-notice.txt",
    |mail, _| {
        let name = &mail.license_name;
        match mail.stage() {
            Stage::Expired => format!("Action required: {name} license has expired"),
            Stage::Grace => format!("Action required: {name} license is in its grace period"),
            Stage::Soon => format!("Action required: {name} license expires {}", mail.when()),
            Stage::Ahead => format!("{name} license expires {}", mail.when()),
        }
    }
);

#[derive(PartialEq)]
enum Stage {
    Ahead,
    Soon,
    Grace,
    Expired,
}

impl ExpiryNotice {
    fn stage(&self) -> Stage {
        match (self.expired, self.grace_period_active) {
            (Some(true), _) => Stage::Expired,
            (_, Some(true)) => Stage::Grace,
            _ if self.days_remaining <= 30 => Stage::Soon,
            _ => Stage::Ahead,
        }
    }

    fn when(&self) -> String {
        when(self.days_remaining)
    }

    /// What happens to the license.
    fn news(&self) -> String {
        let license = match self.recipient_role {
            Role::Brand => format!("Your license for {}", self.license_name),
            Role::Creator => format!("The license of {} for {}", self.brand_name, self.license_name),
        };
        match self.stage() {
            Stage::Expired => format!("{license} has ended."),
            Stage::Grace => format!("{license} has ended and is in its grace period."),
            Stage::Ahead | Stage::Soon => format!("{license} ends {}.", self.when()),
        }
    }

    /// What the reader can do about it.
    fn advice(&self) -> &'static str {
        match (self.stage(), &self.recipient_role) {
            (Stage::Expired, Role::Brand) => "The work may no longer be used. Renew the license to go on using it.",
            (Stage::Expired, Role::Creator) => "The brand may no longer use the work.",
            (Stage::Grace, Role::Brand) => "Renew it now to go on using the work.",
            (Stage::Grace, Role::Creator) => "The brand can still renew it.",
            _ if self.auto_renew_enabled == Some(true) => "It renews by itself: there is nothing you need to do.",
            (_, Role::Brand) => "Renew it in time to go on using the work.",
            (_, Role::Creator) => "The brand can renew it until then.",
        }
    }
}

impl Expiry {
    fn when(&self) -> String {
        when(self.days_remaining)
    }
}

fn when(days: i64) -> String {
    match days {
        ..=0 => "today".to_owned(),
        1 => "tomorrow".to_owned(),
        days => format!("in {days} days"),
    }
}
