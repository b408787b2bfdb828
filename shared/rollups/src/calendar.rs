use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime};
use services::Timestamp;

use crate::EVENT_RETENTION_DAYS;
use crate::log::{JobType, Refusal};

/// A UTC day, an ISO week or a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// The day.
    Day(NaiveDate),
    /// The week that begins on this Monday.
    Week(NaiveDate),
    /// The month that begins on this first day.
    Month(NaiveDate),
}

/// Whether the events of a day may have been purged by now.
pub fn is_frozen(date: NaiveDate, now: Timestamp) -> bool {
    let oldest = now.date_naive().checked_sub_days(Days::new(EVENT_RETENTION_DAYS));
    oldest.is_some_and(|oldest| date < oldest)
}

impl Period {
    /// The week of a date.
    pub fn week_of(date: NaiveDate) -> Self {
        let days = u64::from(date.weekday().num_days_from_monday());
        Self::Week(date.checked_sub_days(Days::new(days)).unwrap_or(date))
    }

    /// The month of a date.
    pub fn month_of(date: NaiveDate) -> Self {
        Self::Month(date.with_day(1).unwrap_or(date))
    }

    /// What `metrics_dirty_periods` calls it, back to a period; nothing when it does not begin there.
    pub fn of_granularity(granularity: &str, start: NaiveDate) -> Option<Self> {
        let period = match granularity {
            "day" => Self::Day(start),
            "week" => Self::week_of(start),
            "month" => Self::month_of(start),
            _ => return None,
        };
        (period.start() == start).then_some(period)
    }

    /// `day`, `week` or `month`.
    pub fn granularity(self) -> &'static str {
        match self {
            Self::Day(_) => "day",
            Self::Week(_) => "week",
            Self::Month(_) => "month",
        }
    }

    /// Under which its computation is logged.
    pub fn job_type(self) -> JobType {
        match self {
            Self::Day(_) => JobType::Daily,
            Self::Week(_) => JobType::Weekly,
            Self::Month(_) => JobType::Monthly,
        }
    }

    /// The first day.
    pub fn start(self) -> NaiveDate {
        match self {
            Self::Day(start) | Self::Week(start) | Self::Month(start) => start,
        }
    }

    /// The last day.
    pub fn end(self) -> NaiveDate {
        let next = self.next().start();
        next.checked_sub_days(Days::new(1)).unwrap_or(next)
    }

    /// The one after it.
    pub fn next(self) -> Self {
        let later = |days| self.start().checked_add_days(Days::new(days)).unwrap_or(NaiveDate::MAX);
        match self {
            Self::Day(_) => Self::Day(later(1)),
            Self::Week(_) => Self::Week(later(7)),
            Self::Month(start) => Self::Month(start.checked_add_months(Months::new(1)).unwrap_or(NaiveDate::MAX)),
        }
    }

    /// The one before it.
    pub fn previous(self) -> Self {
        let start = self.start();
        let before = start.checked_sub_days(Days::new(1)).unwrap_or(start);
        match self {
            Self::Day(_) => Self::Day(before),
            Self::Week(_) => Self::week_of(before),
            Self::Month(_) => Self::month_of(before),
        }
    }

    /// Its days.
    pub fn days(self) -> impl Iterator<Item = NaiveDate> {
        let end = self.end();
        self.start().iter_days().take_while(move |date| *date <= end)
    }

    /// Its first instant.
    pub fn start_instant(self) -> Timestamp {
        midnight(self.start())
    }

    /// The first instant after it.
    pub fn end_instant(self) -> Timestamp {
        midnight(self.next().start())
    }

    /// Whether it has ended.
    pub fn is_over(self, now: Timestamp) -> bool {
        self.end_instant() <= now
    }

    /// Why it cannot be computed.
    pub(crate) fn refusal(self, now: Timestamp) -> Option<Refusal> {
        match self {
            Self::Day(date) if date > now.date_naive() => Some(Refusal::Future),
            Self::Day(date) if is_frozen(date, now) => Some(Refusal::Frozen),
            Self::Week(_) | Self::Month(_) if !self.is_over(now) => Some(Refusal::Open),
            _ => None,
        }
    }
}

/// The first instant of a day.
fn midnight(date: NaiveDate) -> Timestamp {
    DateTime::from_naive_utc_and_offset(date.and_time(NaiveTime::MIN), chrono::Utc)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn date(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    proptest! {
        #[test]
        fn periods_of_a_kind_follow_each_other_without_gap_and_cover_each_date_once(offset in 0u64..40_000) {
            let date = date("1990-01-01").checked_add_days(Days::new(offset)).unwrap();
            for period in [Period::Day(date), Period::week_of(date), Period::month_of(date)] {
                prop_assert!(period.start() <= date && date <= period.end());
                prop_assert_eq!(period.next().previous(), period);
                prop_assert_eq!(period.end().succ_opt().unwrap(), period.next().start());
                prop_assert_eq!(Period::of_granularity(period.granularity(), period.start()), Some(period));
                prop_assert_eq!(period.days().last(), Some(period.end()));
            }
        }
    }

    #[test]
    fn ninety_days_are_not_frozen_and_the_one_before_is() {
        let now = "2025-10-20T00:00:00Z".parse().unwrap();
        assert!(!is_frozen(date("2025-07-22"), now));
        assert!(is_frozen(date("2025-07-21"), now));
    }

    #[test]
    fn a_week_that_does_not_begin_on_a_monday_is_none() {
        assert_eq!(Period::of_granularity("week", date("2025-10-07")), None);
        assert_eq!(Period::of_granularity("month", date("2025-10-02")), None);
    }
}
