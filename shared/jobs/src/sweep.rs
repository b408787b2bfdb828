use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Message, Timestamp};

/// What a cursor may take of a message, in bytes of JSON.
const LARGEST_CURSOR: usize = 4096;

/// Sweep what a rule calls dead. `{}` is a whole sweep.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Sweep {
    /// The slot; replaces "now" in every rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// Rows of one page, which is one transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub batch_size: Option<u32>,
    /// The most pages of one run; a new message asks for the rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub pages: Option<u32>,
    /// Only count what would be swept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Where an earlier run has got to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cursor>,
}

/// How far a sweep is, and what it has done so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Cursor {
    /// Steps that have begun, by name.
    pub steps: BTreeMap<String, Reached>,
    /// The report so far.
    pub report: Value,
}

/// How far a step is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Reached {
    /// To its end.
    Done,
    /// To this row, which is behind it.
    After(Position),
}

/// A row in the order of a step: by time, then by id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Position {
    /// The time that the step goes by.
    pub at: Timestamp,
    /// What tells rows of the same time apart.
    pub id: String,
}

impl Position {
    /// Before all rows: the year 1.
    pub fn start() -> Self {
        Self {
            at: Timestamp::from_timestamp(-62_135_596_800, 0).unwrap_or(Timestamp::UNIX_EPOCH),
            id: String::new(),
        }
    }
}

impl Message for Sweep {
    fn as_of(&self) -> Option<Timestamp> {
        self.as_of
    }

    fn validate(&self) -> Result<(), String> {
        self.validate_with_pages_of(1..=10_000)
    }
}

impl Sweep {
    /// As [`Message::validate`], for a job whose pages may be of another size.
    pub(crate) fn validate_with_pages_of(&self, sizes: RangeInclusive<u32>) -> Result<(), String> {
        if self.batch_size.is_some_and(|size| !sizes.contains(&size)) {
            let (least, most) = sizes.into_inner();
            return Err(format!("`batchSize` is not between {least} and {most}"));
        }
        if self.pages == Some(0) {
            return Err("`pages` is 0".into());
        }
        let size = |cursor| serde_json::to_string(cursor).map_or(usize::MAX, |json| json.len());
        if self.cursor.as_ref().is_some_and(|cursor| size(cursor) > LARGEST_CURSOR) {
            return Err(format!("`cursor` has more than {LARGEST_CURSOR} bytes"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode;

    #[test]
    fn an_empty_message_is_a_whole_sweep() {
        assert!(decode::<Sweep>(json!({})).is_ok());
    }

    #[test]
    fn a_page_has_the_size_that_the_job_allows() {
        for size in [1, 10_000] {
            assert!(decode::<Sweep>(json!({ "batchSize": size })).is_ok(), "{size}");
        }
        for size in [0, 20_000] {
            let error = decode::<Sweep>(json!({ "batchSize": size })).unwrap_err();
            assert_eq!(
                error.to_string(),
                "invalid message: `batchSize` is not between 1 and 10000"
            );
        }
    }

    #[test]
    fn a_cursor_reads_back_as_it_was_written_and_a_large_one_is_refused() {
        let cursor = json!({"report": {"deleted": 3}, "steps": {
            "a": "done", "b": {"after": {"at": "2025-10-20T09:00:00Z", "id": "x"}}
        }});
        let sweep = decode::<Sweep>(json!({ "cursor": cursor })).unwrap();
        assert_eq!(serde_json::to_value(&sweep).unwrap()["cursor"], cursor);
        let large = json!({"cursor": {"report": "x".repeat(LARGEST_CURSOR)}});
        assert!(decode::<Sweep>(large).is_err());
        assert!(decode::<Sweep>(json!({"cursor": {"steps": {"a": {"after": {"at": 7}}}}})).is_err());
    }
}
