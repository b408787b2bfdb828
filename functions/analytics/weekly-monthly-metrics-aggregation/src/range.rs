use chrono::NaiveDate;
use jobs::{Granularity, ReconcileMetrics, Timestamp};
use rollups::{Period, is_frozen};

/// The periods that a range touches, as far as they are over: days (if they are to be rebuilt, and can be), weeks, months.
pub(crate) fn periods(message: &ReconcileMetrics, now: Timestamp) -> Vec<Period> {
    let (Some(from), Some(to)) = (message.from, message.to) else {
        return Vec::new();
    };
    let granularity = message.granularity.unwrap_or(Granularity::Both);
    let mut periods = Vec::new();
    if message.rebuild_daily {
        let days = from.iter_days().take_while(|date| *date <= to);
        periods.extend(days.filter(|date| !is_frozen(*date, now)).map(Period::Day));
    }
    if granularity != Granularity::Monthly {
        periods.extend(touching(Period::week_of(from), to));
    }
    if granularity != Granularity::Weekly {
        periods.extend(touching(Period::month_of(from), to));
    }
    periods.retain(|period| period.is_over(now));
    periods
}

fn touching(first: Period, to: NaiveDate) -> impl Iterator<Item = Period> {
    std::iter::successors(Some(first), |period| Some(period.next())).take_while(move |period| period.start() <= to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: &str, to: &str, rebuild_daily: bool, now: &str) -> Vec<Period> {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let message = ReconcileMetrics::backfill(Granularity::Both, from, to, rebuild_daily);
        periods(&message, now.parse().unwrap())
    }

    fn count(periods: &[Period]) -> [usize; 3] {
        ["day", "week", "month"].map(|granularity| periods.iter().filter(|p| p.granularity() == granularity).count())
    }

    #[test]
    fn nine_months_touch_forty_weeks() {
        let periods = range("2025-01-01", "2025-09-30", false, "2026-01-01T00:00:00Z");
        assert_eq!(count(&periods), [0, 40, 9]);
        assert_eq!(periods[0], Period::Week("2024-12-30".parse().unwrap()));
        assert_eq!(periods[39], Period::Week("2025-09-29".parse().unwrap()));
        assert!(periods.is_sorted());
    }

    #[test]
    fn what_is_open_is_left_out_and_so_are_frozen_days() {
        let periods = range("2025-01-01", "2025-12-31", true, "2025-10-20T12:00:00Z");
        assert_eq!(count(&periods), [90, 42, 9]);
    }
}
