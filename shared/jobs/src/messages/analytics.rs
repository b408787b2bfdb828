use chrono::{Datelike, Months, NaiveDate, TimeDelta, Weekday};

use super::*;

/// Enrich one event: device, session, attribution, what it is about, and whether it is a duplicate.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnrichEvent {
    /// The row of `events`.
    pub event_id: Id,
}

impl Message for EnrichEvent {}

/// Aggregate events into hours, days or the days of posts.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AggregateEvents {
    /// What to compute.
    pub action: AggregateAction,
    /// The day, of the daily ones; yesterday unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<NaiveDate>,
    /// Hours to compute besides those with news, from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// To here, at most 72 hours later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// Where an hourly run goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<HourCursor>,
    /// The slot; replaces "now".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
}

/// What [`AggregateEvents`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AggregateAction {
    /// The hours with news, and what follows from them.
    Hourly,
    /// One day.
    Daily,
    /// The posts of one day.
    PostDaily,
}

/// How far an hourly run has come.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HourCursor {
    /// The last hour that is computed.
    pub after: Timestamp,
    /// When the first of its messages began: up to then everything is seen.
    pub started_at: Timestamp,
}

impl AggregateEvents {
    /// Compute a day, or its posts.
    pub fn day(action: AggregateAction, date: NaiveDate) -> Self {
        Self {
            action,
            date: Some(date),
            from: None,
            to: None,
            cursor: None,
            as_of: None,
        }
    }
}

impl Message for AggregateEvents {
    fn as_of(&self) -> Option<Timestamp> {
        self.as_of
    }

    fn validate(&self) -> Result<(), String> {
        let hourly = self.action == AggregateAction::Hourly;
        if hourly && self.date.is_some() {
            return Err("`date` is for daily and post_daily".into());
        }
        if !hourly && (self.from.is_some() || self.to.is_some() || self.cursor.is_some()) {
            return Err("`from`, `to` and `cursor` are for hourly".into());
        }
        match (self.from, self.to) {
            (None, None) => Ok(()),
            (Some(from), Some(to)) if from < to && to - from <= TimeDelta::hours(72) => Ok(()),
            (Some(_), Some(_)) => Err("`to` is not within 72 hours after `from`".into()),
            _ => Err("`from` and `to` come together".into()),
        }
    }
}

/// Roll up a closed week or month.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AggregateMetrics {
    /// Week or month.
    pub job_type: Grain,
    /// A Monday, or a first of the month; that of the last closed one unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period_start: Option<NaiveDate>,
    /// Why, for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub reason: Option<String>,
    /// The slot; replaces "now".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
}

/// How long a period is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grain {
    /// An ISO week.
    Weekly,
    /// A calendar month.
    Monthly,
}

impl Message for AggregateMetrics {
    fn as_of(&self) -> Option<Timestamp> {
        self.as_of
    }

    fn validate(&self) -> Result<(), String> {
        if self.reason.as_ref().is_some_and(|reason| reason.chars().count() > 200) {
            return Err("`reason` is longer than 200 characters".into());
        }
        match (self.job_type, self.period_start) {
            (Grain::Weekly, Some(start)) if start.weekday() != Weekday::Mon => Err(format!(
                "`periodStart` {start} is a {:?}, not a Monday",
                start.weekday()
            )),
            (Grain::Monthly, Some(start)) if start.day() != 1 => {
                Err(format!("`periodStart` {start} is not the first of a month"))
            }
            _ => Ok(()),
        }
    }
}

/// Repair, fill, verify or compare weekly and monthly roll-ups.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReconcileMetrics {
    /// What to do.
    pub action: ReconcileAction,
    /// Of a back-fill or verification: which periods; both unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granularity: Option<Granularity>,
    /// Its first day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<NaiveDate>,
    /// Its last day, at most five years later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<NaiveDate>,
    /// Whether a back-fill computes days, too, as far as their events are kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rebuild_daily: bool,
    /// Of a year-over-year comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub year: Option<i32>,
    /// Of a year-over-year comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 12))]
    pub month: Option<u32>,
    /// Where a back-fill or verification goes on: how many of its periods are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<PeriodCursor>,
    /// The slot; replaces "now".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
}

/// What [`ReconcileMetrics`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReconcileAction {
    /// Compute what is marked, and what is missing of the last thirteen weeks and months.
    Reconcile,
    /// Compute a range.
    Backfill,
    /// Compare a range with its daily rows, and mend what differs.
    Verify,
    /// Compare a month with the same one a year before.
    Yoy,
}

/// Which periods of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// Weeks.
    Weekly,
    /// Months.
    Monthly,
    /// Weeks, then months.
    Both,
}

/// The next period of a range; days come before weeks, and weeks before months.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeriodCursor {
    /// Its kind; none is a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grain: Option<Grain>,
    /// Its first day.
    pub start: NaiveDate,
    /// How many periods were done before it.
    pub done: u32,
}

impl ReconcileMetrics {
    /// Compute a range.
    pub fn backfill(granularity: Granularity, from: NaiveDate, to: NaiveDate, rebuild_daily: bool) -> Self {
        Self {
            action: ReconcileAction::Backfill,
            granularity: Some(granularity),
            from: Some(from),
            to: Some(to),
            rebuild_daily,
            year: None,
            month: None,
            cursor: None,
            as_of: None,
        }
    }
}

impl Message for ReconcileMetrics {
    fn as_of(&self) -> Option<Timestamp> {
        self.as_of
    }

    fn validate(&self) -> Result<(), String> {
        match self.action {
            ReconcileAction::Reconcile => Ok(()),
            ReconcileAction::Backfill | ReconcileAction::Verify => match (self.from, self.to) {
                (Some(from), Some(to)) if from > to => Err(format!("`from` {from} is after `to` {to}")),
                (Some(from), Some(to)) if from.checked_add_months(Months::new(60)).is_none_or(|end| to >= end) => {
                    Err(format!("`from` {from} to `to` {to} is more than five years"))
                }
                (Some(_), Some(_)) => Ok(()),
                _ => Err("`from` and `to` are missing".into()),
            },
            ReconcileAction::Yoy => match (self.year, self.month) {
                (Some(year), Some(month)) if NaiveDate::from_ymd_opt(year, month, 1).is_some() => Ok(()),
                _ => Err("`year` and `month` are missing, or no month".into()),
            },
        }
    }
}
