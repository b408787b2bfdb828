use chrono::{Duration, NaiveTime};
use chrono_tz::Tz;

use crate::{Timestamp, local_time};

/// When the quiet interval `[start, end)` that `at` lies in ends; `None` when `at` is not in it. The interval is
/// local and may wrap midnight; start = end is none (spec: comms, C10).
pub(super) fn end(zone: Tz, start: NaiveTime, end: NaiveTime, at: Timestamp) -> Option<Timestamp> {
    let local = at.with_timezone(&zone).naive_local();
    let (time, today) = (local.time(), local.date());
    let day = match start.cmp(&end) {
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Less if (start..end).contains(&time) => today,
        std::cmp::Ordering::Greater if time >= start => today + Duration::days(1),
        std::cmp::Ordering::Greater if time < end => today,
        _ => return None,
    };
    // In the repeated hour of autumn the end may lie before `at`: then the quiet is over.
    Some(local_time::instant(zone, day.and_time(end))).filter(|end| *end > at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(zone: &str, start: &str, until: &str, at: &str) -> Option<String> {
        let time = |text: &str| NaiveTime::parse_from_str(text, "%H:%M").unwrap();
        end(local_time::zone(zone), time(start), time(until), at.parse().unwrap())
            .map(|at| at.format("%FT%RZ").to_string())
    }

    #[test]
    fn quiet_hours_end_at_their_local_end() {
        let berlin = |at| quiet("Europe/Berlin", "22:00", "07:00", at);
        assert_eq!(berlin("2025-07-01T19:59:00Z"), None);
        assert_eq!(berlin("2025-07-01T20:00:00Z").as_deref(), Some("2025-07-02T05:00Z"));
        assert_eq!(berlin("2025-07-02T04:59:00Z").as_deref(), Some("2025-07-02T05:00Z"));
        assert_eq!(berlin("2025-07-02T05:00:00Z"), None);
        assert_eq!(berlin("2025-01-02T05:00:00Z").as_deref(), Some("2025-01-02T06:00Z"));
        assert_eq!(
            quiet("UTC", "12:00", "13:00", "2025-07-01T12:30:00Z").as_deref(),
            Some("2025-07-01T13:00Z")
        );
        assert_eq!(quiet("UTC", "12:00", "12:00", "2025-07-01T12:00:00Z"), None);
    }

    #[test]
    fn an_end_that_the_clocks_skip_is_the_end_of_the_gap() {
        assert_eq!(
            quiet("Europe/Berlin", "22:00", "02:30", "2025-03-30T00:30:00Z").as_deref(),
            Some("2025-03-30T01:00Z")
        );
    }
}
