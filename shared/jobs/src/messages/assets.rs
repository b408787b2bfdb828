use chrono::NaiveDate;

use super::*;

/// Measure what is stored, for one day.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MeasureStorage {
    /// The slot; its day in UTC is the snapshot's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// Another day, today or yesterday.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_date: Option<NaiveDate>,
    /// Only count the rows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl Message for MeasureStorage {
    fn as_of(&self) -> Option<Timestamp> {
        self.as_of
    }
}
