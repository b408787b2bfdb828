use chrono::{Datelike, Days, NaiveDate};
use chrono_tz::Tz;
use jobs::Timestamp;
use services::local_time;

use crate::Frequency;

/// The moment at which a user's digest is due, and the day or week that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// When.
    pub at: Timestamp,
    /// The local day, `2025-10-20`, or the ISO week of it, `2025-W43`.
    pub period_key: String,
}

/// The latest slot that is not after `at`: of the hour `hour` in `zone`, each day or each ISO weekday `weekday` (1 is Monday).
///
/// Every local day has one slot: an hour that the clocks skip is the first instant after the gap, one that comes twice its first
/// occurrence (spec: comms, C10).
pub fn latest(frequency: Frequency, zone: Tz, hour: u32, weekday: u32, at: Timestamp) -> Option<Slot> {
    let today = at.with_timezone(&zone).date_naive();
    // From tomorrow: at the end of a gap of a day, two days begin at once.
    (0..=9)
        .filter_map(|back| (today + Days::new(1)).checked_sub_days(Days::new(back)))
        .filter(|day| frequency == Frequency::Daily || day.weekday().number_from_monday() == weekday)
        .filter_map(|day| slot(frequency, zone, hour, day))
        .find(|slot| slot.at <= at)
}

fn slot(frequency: Frequency, zone: Tz, hour: u32, day: NaiveDate) -> Option<Slot> {
    let format = match frequency {
        Frequency::Daily => "%F",
        Frequency::Weekly => "%G-W%V",
    };
    Some(Slot {
        at: local_time::instant(zone, day.and_hms_opt(hour, 0, 0)?),
        period_key: day.format(format).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use chrono::{Duration, TimeZone, Utc};
    use chrono_tz::TZ_VARIANTS;
    use proptest::prelude::*;

    use super::*;
    use crate::due;

    /// The slots that ticks of a quarter hour find due, at the first tick each, in a span of days.
    fn ticks(
        frequency: Frequency,
        zone: &str,
        hour: u32,
        weekday: u32,
        from: &str,
        days: i64,
    ) -> Vec<(String, String)> {
        let zone: Tz = zone.parse().unwrap();
        let from: Timestamp = from.parse().unwrap();
        let mut found: Vec<(String, String)> = Vec::new();
        for tick in 0..days * 96 {
            let at = from + Duration::minutes(15 * tick);
            if let Some(slot) = due(frequency, zone, hour, weekday, at)
                && found.iter().all(|(_, key)| *key != slot.period_key)
            {
                found.push((at.format("%m-%dT%H:%MZ").to_string(), slot.period_key));
            }
        }
        found
    }

    fn daily(zone: &str, hour: u32, from: &str) -> Vec<String> {
        ticks(Frequency::Daily, zone, hour, 1, from, 3)
            .into_iter()
            .map(|(at, key)| format!("{key} {at}"))
            .collect()
    }

    #[test]
    fn nine_o_clock_is_the_users_own() {
        // From 12:00 UTC the slot of the day before can still be due, so that days begin at the first tick.
        for (zone, times) in [
            ("UTC", "2025-10-21 10-21T09:00Z"),
            ("America/New_York", "2025-10-21 10-21T13:00Z"),
            ("Asia/Kolkata", "2025-10-21 10-21T03:30Z"),
            ("Asia/Kathmandu", "2025-10-21 10-21T03:15Z"),
            ("Pacific/Kiritimati", "2025-10-21 10-20T19:00Z"),
            ("Australia/Lord_Howe", "2025-10-21 10-20T22:00Z"),
            ("Pacific/Chatham", "2025-10-21 10-20T19:15Z"),
        ] {
            assert!(
                daily(zone, 9, "2025-10-20T00:00:00Z").contains(&times.to_owned()),
                "{zone}"
            );
        }
    }

    #[test]
    fn an_hour_that_spring_skips_is_due_right_after_the_gap() {
        let berlin = daily("Europe/Berlin", 2, "2025-03-29T00:00:00Z");
        assert!(berlin.contains(&"2025-03-30 03-30T01:00Z".to_owned()), "{berlin:?}");
        assert!(berlin.contains(&"2025-03-31 03-31T00:00Z".to_owned()), "{berlin:?}");
        let new_york = daily("America/New_York", 2, "2025-03-08T12:00:00Z");
        assert!(new_york.contains(&"2025-03-09 03-09T07:00Z".to_owned()), "{new_york:?}");
        // Half an hour: 02:00 becomes 02:30.
        let lord_howe = daily("Australia/Lord_Howe", 2, "2025-10-03T12:00:00Z");
        assert!(
            lord_howe.contains(&"2025-10-05 10-04T15:30Z".to_owned()),
            "{lord_howe:?}"
        );
    }

    #[test]
    fn an_hour_that_autumn_repeats_is_due_once_at_its_first_occurrence() {
        let berlin = daily("Europe/Berlin", 2, "2025-10-25T03:00:00Z");
        let first: Vec<_> = berlin.iter().filter(|slot| slot.starts_with("2025-10-26")).collect();
        assert_eq!(first, ["2025-10-26 10-26T00:00Z"]);
        let lord_howe = daily("Australia/Lord_Howe", 1, "2025-04-04T15:00:00Z");
        let first: Vec<_> = lord_howe.iter().filter(|slot| slot.starts_with("2025-04-06")).collect();
        assert_eq!(first, ["2025-04-06 04-05T14:00Z"]);
    }

    #[test]
    fn a_week_has_one_slot_named_by_its_iso_week() {
        let weekly = |zone, weekday, from| ticks(Frequency::Weekly, zone, 9, weekday, from, 12);
        assert_eq!(
            weekly("UTC", 1, "2025-10-16T00:00:00Z"),
            [
                ("10-20T09:00Z".to_owned(), "2025-W43".to_owned()),
                ("10-27T09:00Z".to_owned(), "2025-W44".to_owned())
            ]
        );
        // The year of the week is not the year of the day.
        assert_eq!(
            weekly("UTC", 1, "2025-12-25T00:00:00Z")[0],
            ("12-29T09:00Z".to_owned(), "2026-W01".to_owned())
        );
        assert_eq!(
            weekly("Asia/Kolkata", 7, "2026-12-30T00:00:00Z")[0],
            ("01-03T03:30Z".to_owned(), "2026-W53".to_owned())
        );
    }

    #[test]
    fn a_slot_can_be_caught_up_with_for_half_a_day_or_two_days() {
        let at =
            |frequency, time: &str| due(frequency, Tz::UTC, 9, 1, time.parse().unwrap()).map(|slot| slot.period_key);
        assert_eq!(
            at(Frequency::Daily, "2025-10-20T20:59:59Z").as_deref(),
            Some("2025-10-20")
        );
        assert_eq!(at(Frequency::Daily, "2025-10-20T21:00:00Z"), None);
        assert_eq!(at(Frequency::Daily, "2025-10-21T08:59:59Z"), None);
        assert_eq!(
            at(Frequency::Weekly, "2025-10-22T08:59:59Z").as_deref(),
            Some("2025-W43")
        );
        assert_eq!(at(Frequency::Weekly, "2025-10-22T09:00:00Z"), None);
    }

    #[test]
    fn a_day_that_a_zone_skipped_is_due_when_the_next_begins() {
        let at = |hour| {
            latest(
                Frequency::Daily,
                Tz::Pacific__Apia,
                hour,
                1,
                "2011-12-30T10:00:00Z".parse().unwrap(),
            )
        };
        assert_eq!(at(12).unwrap().period_key, "2011-12-30");
        assert_eq!(at(0).unwrap().period_key, "2011-12-31");
    }

    proptest! {
        #[test]
        fn the_latest_slot_is_the_latest_and_no_two_share_a_key(
            zone in 0..TZ_VARIANTS.len(), seconds in 946_684_800i64..2_524_608_000, hour in 0u32..24, weekday in 1u32..=7, weekly: bool
        ) {
            let zone = TZ_VARIANTS[zone];
            let frequency = if weekly { Frequency::Weekly } else { Frequency::Daily };
            let at = Utc.timestamp_opt(seconds, 0).unwrap();
            let slot = latest(frequency, zone, hour, weekday, at).unwrap();
            prop_assert!(slot.at <= at);
            // A slot stays the latest until the next one comes, which has another key, a day or a week on, give or take a shift.
            let period = if weekly { 7 * 24 } else { 24 };
            let next = latest(frequency, zone, hour, weekday, slot.at + Duration::hours(period + 25)).unwrap();
            prop_assert!(next.at > slot.at && next.period_key != slot.period_key, "{slot:?} {next:?}");
            prop_assert!(at - slot.at < Duration::hours(period + 25), "{slot:?}");
            prop_assert_eq!(latest(frequency, zone, hour, weekday, slot.at).map(|same| same.at), Some(slot.at));
            let before = latest(frequency, zone, hour, weekday, slot.at - Duration::seconds(1)).unwrap();
            prop_assert!(before.at < slot.at && before.period_key != slot.period_key, "{before:?} {slot:?}");
        }
    }
}
