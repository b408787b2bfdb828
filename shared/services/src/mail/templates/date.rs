//! Days and instants: ISO 8601 in, the reader's own calendar out.

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// A day (`2025-10-20`) is the same everywhere; an instant (`2025-10-20T22:30:00Z`) falls on the reader's day.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Date {
    Day(NaiveDate),
    Instant(DateTime<Utc>),
}

impl Date {
    /// `20 October 2025`
    pub(super) fn to_day(self, zone: Tz) -> String {
        let day = match self {
            Self::Day(day) => day,
            Self::Instant(instant) => instant.with_timezone(&zone).date_naive(),
        };
        day.format("%-d %B %Y").to_string()
    }

    /// `20 October 2025, 14:30 CEST`; of a day, the day.
    pub(super) fn to_moment(self, zone: Tz) -> String {
        match self {
            Self::Day(_) => self.to_day(zone),
            Self::Instant(instant) => instant.with_timezone(&zone).format("%-d %B %Y, %H:%M %Z").to_string(),
        }
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map(Self::Day)
            .or_else(|_| text.parse().map(Self::Instant))
            .map_err(|_| D::Error::custom("not an ISO 8601 date or time"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn an_instant_falls_on_the_readers_day_and_a_day_stays() {
        for (iso, zone, text) in [
            ("2025-10-20", Tz::UTC, "20 October 2025"),
            ("2025-10-20", Tz::Pacific__Kiritimati, "20 October 2025"),
            ("2025-10-20T22:30:00Z", Tz::UTC, "20 October 2025"),
            ("2025-10-20T22:30:00Z", Tz::Europe__Berlin, "21 October 2025"),
            ("2025-01-01T02:00:00.123Z", Tz::America__New_York, "31 December 2024"),
            ("2025-03-01T00:00:00+05:30", Tz::UTC, "28 February 2025"),
        ] {
            let date: Date = from_value(json!(iso)).unwrap();
            assert_eq!(date.to_day(zone), text, "{iso} in {zone}");
        }
    }

    #[test]
    fn a_moment_is_told_by_the_readers_clock() {
        let moment: Date = from_value(json!("2025-10-20T22:30:00Z")).unwrap();
        assert_eq!(moment.to_moment(Tz::UTC), "20 October 2025, 22:30 UTC");
        assert_eq!(moment.to_moment(Tz::Europe__Berlin), "21 October 2025, 00:30 CEST");
    }

    #[test]
    fn anything_else_is_no_date() {
        for text in [
            json!("tomorrow"),
            json!("20/10/2025"),
            json!("2025-02-30"),
            json!("2025-10-20T25:00:00Z"),
            json!(0),
        ] {
            assert!(from_value::<Date>(text).is_err());
        }
    }
}
