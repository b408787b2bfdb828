//! Local times of users, in UTC.

use chrono::{DateTime, Duration, LocalResult, NaiveDateTime, Offset, TimeZone, Utc};
use chrono_tz::Tz;

/// The zone of a user. An unknown name counts as UTC: one bad row must not fail a page.
pub fn zone(name: &str) -> Tz {
    name.parse().unwrap_or_else(|_| {
        tracing::warn!(zone = name, "an unknown time zone counts as UTC");
        Tz::UTC
    })
}

/// The instant of a local time. A time that the clocks skip is the first instant after the gap; one that comes
/// twice is its first occurrence (spec: comms, C10).
pub fn instant(zone: Tz, local: NaiveDateTime) -> DateTime<Utc> {
    match zone.from_local_datetime(&local) {
        LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => at.with_timezone(&Utc),
        LocalResult::None => end_of_gap(zone, local),
    }
}

/// No offset is above a day, so the change lies within two days; it is the only one there.
fn end_of_gap(zone: Tz, local: NaiveDateTime) -> DateTime<Utc> {
    let offset = |at: i64| zone.offset_from_utc_datetime(&(local + Duration::seconds(at))).fix();
    let (mut before, mut after) = (-86_400, 86_400);
    let old = offset(before);
    while after - before > 1 {
        let middle = before + (after - before) / 2;
        if offset(middle) == old {
            before = middle
        } else {
            after = middle
        }
    }
    (local + Duration::seconds(after)).and_utc()
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;

    use super::*;

    fn at(zone_name: &str, (y, m, d): (i32, u32, u32), (hour, minute): (u32, u32)) -> String {
        let local = NaiveDate::from_ymd_opt(y, m, d)
            .unwrap()
            .and_hms_opt(hour, minute, 0)
            .unwrap();
        instant(zone(zone_name), local).format("%FT%RZ").to_string()
    }

    #[test]
    fn a_skipped_hour_is_the_end_of_the_gap_and_a_doubled_one_its_first_half() {
        assert_eq!(at("Europe/Berlin", (2025, 3, 30), (2, 30)), "2025-03-30T01:00Z");
        assert_eq!(at("America/New_York", (2025, 3, 9), (2, 0)), "2025-03-09T07:00Z");
        assert_eq!(at("Australia/Lord_Howe", (2025, 10, 5), (2, 15)), "2025-10-04T15:30Z");
        assert_eq!(at("Europe/Berlin", (2025, 10, 26), (2, 30)), "2025-10-26T00:30Z");
        assert_eq!(at("Asia/Kathmandu", (2025, 10, 26), (9, 0)), "2025-10-26T03:15Z");
        assert_eq!(at("Nowhere/Land", (2025, 10, 26), (9, 0)), "2025-10-26T09:00Z");
    }

    #[test]
    fn a_day_that_a_zone_skipped_ends_at_its_next_midnight() {
        assert_eq!(at("Pacific/Apia", (2011, 12, 30), (12, 0)), "2011-12-30T10:00Z");
    }
}
