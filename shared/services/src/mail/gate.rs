//! The send gate: may this mail leave now? (spec: comms, C6; order matters, the first "no" wins)

use chrono::{Duration, NaiveTime};
use chrono_tz::Tz;

use super::ledger::Status;
use super::quiet_hours;
use super::stream::{Category, Stream};
use super::templates::Template;
use crate::Timestamp;

/// At most this many marketing mails a user a day.
const MARKETING_A_DAY: i64 = 3;
/// At most this many notification mails a user an hour.
const NOTIFICATIONS_AN_HOUR: i64 = 50;

/// What the rules ask of the recipient of a mail.
#[derive(Clone, Debug)]
pub struct Audience {
    /// The address belongs to a user; without one only suppressions count.
    pub known: bool,
    /// Not deleted, not deactivated.
    pub active: bool,
    /// The address was confirmed.
    pub verified: bool,
    /// E-mail is off as a whole, or everything was unsubscribed from.
    pub unsubscribed: bool,
    /// The category is switched off.
    pub category_off: bool,
    /// The EMAIL channel is off for this type of notification.
    pub channel_off: bool,
    /// Reason and scope of a suppression in force.
    pub suppression: Option<(String, String)>,
}

/// What the rules ask of one mail beyond its recipient.
#[derive(Clone, Debug)]
pub(super) struct Circumstances {
    pub stream: Stream,
    pub urgent: bool,
    pub expires_at: Timestamp,
    pub marketing_paused: bool,
    pub email_frequency: String,
    pub zone: Tz,
    pub quiet_hours: Option<(NaiveTime, NaiveTime)>,
    /// MARKETING sent to the user within a day.
    pub marketing_sent: i64,
    /// NOTIFICATION sent to the user within an hour.
    pub notifications_sent: i64,
}

/// The answer of the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It may leave.
    Open,
    /// It ends here.
    Refused(Status, &'static str),
    /// It waits for the e-mail digest.
    Held,
    /// It waits until then, without using an attempt.
    Postponed(Timestamp, &'static str),
}

/// Rules 2 to 6: what the recipient does not want or cannot get, whenever it is.
pub fn refusal(stream: Stream, template: &Template, audience: &Audience) -> Option<(Status, &'static str)> {
    use Status::{Skipped, Suppressed};
    let essential = stream == Stream::Essential;
    if audience.known && !audience.active && !template.allowed_for_inactive {
        return Some((Skipped, "user_inactive"));
    }
    if audience.known && !audience.verified && !essential {
        return Some((Skipped, "email_unverified"));
    }
    if let Some((reason, scope)) = &audience.suppression {
        let stops = match scope.as_str() {
            "ALL_BUT_USER_INITIATED" => !template.user_initiated,
            "NON_ESSENTIAL" => !essential,
            _ => true,
        };
        if stops {
            let reason = match reason.as_str() {
                "BOUNCE" => "bounce",
                "COMPLAINT" => "complaint",
                "UNSUBSCRIBE" => "unsubscribe",
                _ => "manual",
            };
            return Some((Suppressed, reason));
        }
    }
    if !essential && audience.known {
        if audience.unsubscribed {
            return Some((Skipped, "global_unsubscribe"));
        }
        if audience.category_off {
            return Some((Skipped, "category_off"));
        }
        if audience.channel_off {
            return Some((Skipped, "channel_off"));
        }
    }
    None
}

/// Rules 1 to 9. The breaker and the pace (10) and the rendering (11) are the mailer's.
pub(super) fn ask(mail: &Circumstances, template: &Template, audience: &Audience, at: Timestamp) -> Gate {
    if mail.expires_at <= at {
        return Gate::Refused(Status::Expired, "expired");
    }
    if mail.stream == Stream::Marketing && mail.marketing_paused {
        return Gate::Postponed(at + Duration::minutes(5), "marketing_paused");
    }
    if let Some((status, reason)) = refusal(mail.stream, template, audience) {
        return Gate::Refused(status, reason);
    }
    if mail.stream == Stream::Marketing && mail.marketing_sent >= MARKETING_A_DAY {
        return Gate::Refused(Status::Skipped, "frequency_cap");
    }
    if mail.stream == Stream::Notification && mail.notifications_sent >= NOTIFICATIONS_AN_HOUR {
        return Gate::Postponed(at + Duration::minutes(60), "frequency_cap");
    }
    if template.digestable && mail.stream != Stream::Essential {
        match mail.email_frequency.as_str() {
            "NEVER" => return Gate::Refused(Status::Skipped, "frequency_never"),
            "DAILY" | "WEEKLY" => return Gate::Held,
            _ => {}
        }
    }
    if let Some((start, end)) = mail.quiet_hours
        && !mail.urgent
        && mail.stream != Stream::Essential
        && let Some(end) = quiet_hours::end(mail.zone, start, end, at)
    {
        return Gate::Postponed(end, "quiet_hours");
    }
    Gate::Open
}

impl Category {
    /// Of a notification's type; SYSTEM is `system`, and so ESSENTIAL, when `metadata.category` says that it is
    /// about security or operations (spec: comms, C3).
    pub fn of_notification(kind: &str, metadata_category: Option<&str>) -> Self {
        match kind {
            "LICENSE" => Self::LicenseExpiry,
            "PAYOUT" => Self::Payouts,
            "ROYALTY" => Self::RoyaltyStatements,
            "PROJECT" => Self::ProjectInvitations,
            "MESSAGE" => Self::Messages,
            "POST_ASSIGNED" | "POST_STATUS_CHANGED" | "BLOG" => Self::Blog,
            _ if matches!(metadata_category, Some("SECURITY" | "OPERATIONS")) => Self::System,
            _ => Self::Announcements,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::templates;
    use super::*;

    fn anyone() -> Audience {
        Audience {
            known: true,
            active: true,
            verified: true,
            unsubscribed: false,
            category_off: false,
            channel_off: false,
            suppression: None,
        }
    }

    fn mail(stream: Stream) -> Circumstances {
        Circumstances {
            stream,
            urgent: false,
            expires_at: now() + Duration::hours(1),
            marketing_paused: false,
            email_frequency: "IMMEDIATE".into(),
            zone: Tz::UTC,
            quiet_hours: None,
            marketing_sent: 0,
            notifications_sent: 0,
        }
    }

    fn now() -> Timestamp {
        "2025-10-20T09:00:00Z".parse().unwrap()
    }

    fn template(key: &str) -> &'static Template {
        templates::find(key).unwrap()
    }

    /// Each rule with everything after it saying no as well: the first must win.
    #[test]
    fn the_first_no_wins() {
        let suppressed = Some(("BOUNCE".to_owned(), "ALL".to_owned()));
        let no = Audience {
            known: true,
            active: false,
            verified: false,
            unsubscribed: true,
            category_off: true,
            channel_off: true,
            suppression: suppressed,
        };
        let expired = Circumstances {
            expires_at: now(),
            notifications_sent: 50,
            quiet_hours: Some((NaiveTime::MIN, NaiveTime::from_hms_opt(23, 59, 0).unwrap())),
            email_frequency: "NEVER".into(),
            ..mail(Stream::Notification)
        };
        let generic = template("project-match-notification");
        let ask = |mail: &Circumstances, audience: &Audience| super::ask(mail, generic, audience, now());
        let said = |gate: Gate| match gate {
            Gate::Open => "open",
            Gate::Held => "held",
            Gate::Refused(_, reason) | Gate::Postponed(_, reason) => reason,
        };
        assert_eq!(said(ask(&expired, &no)), "expired");
        let fresh = Circumstances {
            expires_at: now() + Duration::hours(1),
            ..expired
        };
        assert_eq!(said(ask(&fresh, &no)), "user_inactive");
        let no = Audience { active: true, ..no };
        assert_eq!(said(ask(&fresh, &no)), "email_unverified");
        let no = Audience { verified: true, ..no };
        assert_eq!(ask(&fresh, &no), Gate::Refused(Status::Suppressed, "bounce"));
        let no = Audience {
            suppression: None,
            ..no
        };
        assert_eq!(said(ask(&fresh, &no)), "global_unsubscribe");
        let no = Audience {
            unsubscribed: false,
            ..no
        };
        assert_eq!(said(ask(&fresh, &no)), "category_off");
        let no = Audience {
            category_off: false,
            ..no
        };
        assert_eq!(said(ask(&fresh, &no)), "channel_off");
        assert_eq!(
            ask(&fresh, &anyone()),
            Gate::Postponed(now() + Duration::minutes(60), "frequency_cap")
        );
        let calm = Circumstances {
            notifications_sent: 49,
            ..fresh
        };
        assert_eq!(ask(&calm, &anyone()), Gate::Refused(Status::Skipped, "frequency_never"));
        let daily = Circumstances {
            email_frequency: "DAILY".into(),
            ..calm
        };
        assert_eq!(ask(&daily, &anyone()), Gate::Held);
        let immediate = Circumstances {
            email_frequency: "IMMEDIATE".into(),
            ..daily
        };
        assert_eq!(said(ask(&immediate, &anyone())), "quiet_hours");
        assert_eq!(
            ask(
                &Circumstances {
                    urgent: true,
                    ..immediate
                },
                &anyone()
            ),
            Gate::Open
        );
    }

    #[test]
    fn essential_mail_passes_what_stops_the_rest() {
        let audience = Audience {
            verified: false,
            unsubscribed: true,
            category_off: true,
            channel_off: true,
            ..anyone()
        };
        let quiet = Circumstances {
            quiet_hours: Some((NaiveTime::MIN, NaiveTime::from_hms_opt(23, 0, 0).unwrap())),
            ..mail(Stream::Essential)
        };
        assert_eq!(ask(&quiet, template("password-reset"), &audience, now()), Gate::Open);
    }

    #[test]
    fn after_a_complaint_only_what_the_user_asks_for_gets_through() {
        let audience = Audience {
            suppression: Some(("COMPLAINT".into(), "ALL_BUT_USER_INITIATED".into())),
            ..anyone()
        };
        let of = |key: &str, stream| refusal(stream, template(key), &audience);
        assert_eq!(of("password-reset", Stream::Essential), None);
        assert_eq!(
            of("payout-confirmation", Stream::Notification),
            Some((Status::Suppressed, "complaint"))
        );
    }

    #[test]
    fn an_account_that_goes_may_hear_of_its_going() {
        let gone = Audience {
            active: false,
            ..anyone()
        };
        assert_eq!(refusal(Stream::Essential, template("account-deleted"), &gone), None);
        assert_eq!(
            refusal(Stream::Essential, template("password-reset"), &gone),
            Some((Status::Skipped, "user_inactive"))
        );
    }
}
