use chrono::NaiveDate;
use serde::Deserializer;
use serde::de::Error as _;

use super::*;
use crate::message::from_fields;
use crate::{Cursor, Sweep};

/// Why an upload is to be scanned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScanReason {
    /// It is new.
    #[default]
    Upload,
    /// Its scan never came to an end.
    Stuck,
    /// The object is not the one that was scanned.
    SourceChanged,
    /// Somebody asks for another scan.
    Rescan,
}

/// Scan the bytes of an upload.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScanAsset {
    /// The row of `ip_assets`.
    pub asset_id: Id,
    /// Why.
    #[serde(default)]
    pub reason: ScanReason,
    /// Names a `rescan`: one that comes twice is done once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Id>,
}

impl Message for ScanAsset {
    fn validate(&self) -> Result<(), String> {
        match (self.reason, &self.request_id) {
            (ScanReason::Rescan, None) => Err("a `rescan` has no `requestId`".into()),
            _ => Ok(()),
        }
    }
}

/// Do one step of processing an asset: thumbnails, metadata or previews, as the job says.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessAsset {
    /// The row of `ip_assets`.
    pub asset_id: Id,
    /// Do it again, whatever is there; only with `requestId`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Names what was forced: one that comes twice is done once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Id>,
}

impl Message for ProcessAsset {
    fn validate(&self) -> Result<(), String> {
        requested(self.force, self.request_id.as_ref())
    }
}

/// What has a clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ClipType {
    /// Ten seconds.
    Video,
    /// Thirty seconds.
    Audio,
}

/// That more than one asset is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bulk {
    /// All that need it.
    #[default]
    Bulk,
}

/// Make the previews again that were made by other rules than today's, or were never made: one page of assets.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegeneratePreviews {
    /// `bulk`.
    pub mode: Bulk,
    /// Only assets of this type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub asset_type: Option<ClipType>,
    /// The rules that the previews are to follow: those of the code that is deployed, or is about to be.
    #[schemars(range(min = 1))]
    pub spec_version: u32,
    /// The last asset of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Id>,
    /// Assets of one page, 100 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 500))]
    pub page_size: Option<u32>,
}

/// Make the preview of one asset, or of many: `mode` tells.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum PreviewAsset {
    /// Of one.
    Single(ProcessAsset),
    /// Of many.
    Bulk(RegeneratePreviews),
}

// Not derived: of a message that is neither, an untagged enum says only that.
impl<'de> Deserialize<'de> for PreviewAsset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let message = serde_json::Value::deserialize(deserializer)?;
        let read = match message.get("mode") {
            Some(_) => from_fields(message).map(Self::Bulk),
            None => from_fields(message).map(Self::Single),
        };
        read.map_err(D::Error::custom)
    }
}

impl Message for PreviewAsset {
    fn validate(&self) -> Result<(), String> {
        match self {
            Self::Single(message) => message.validate(),
            Self::Bulk(message) if message.spec_version == 0 => Err("`specVersion` is not at least 1".into()),
            Self::Bulk(message) if !(1..=500).contains(&message.page_size.unwrap_or(1)) => {
                Err("`pageSize` is not between 1 and 500".into())
            }
            Self::Bulk(_) => Ok(()),
        }
    }
}

/// A file that is made of an asset for browsers and phones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the spec has a table of them (assets, `asset-format-conversion`)"
)]
pub enum ConversionVariant {
    Webp,
    Avif,
    #[serde(rename = "size_400w")]
    Size400w,
    #[serde(rename = "size_800w")]
    Size800w,
    #[serde(rename = "size_1200w")]
    Size1200w,
    #[serde(rename = "size_1920w")]
    Size1920w,
    OptimizedMp4,
    #[serde(rename = "720p")]
    P720,
    #[serde(rename = "480p")]
    P480,
    QualityHigh,
    QualityMedium,
    QualityLow,
    Aac,
}

/// Make the variants of an asset.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConvertAsset {
    /// The row of `ip_assets`.
    pub asset_id: Id,
    /// Just this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<ConversionVariant>,
    /// Do it again, whatever is there; only with `requestId`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Names what was forced: one that comes twice is done once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Id>,
}

impl Message for ConvertAsset {
    fn validate(&self) -> Result<(), String> {
        requested(self.force, self.request_id.as_ref())
    }
}

fn requested(force: bool, request_id: Option<&Id>) -> Result<(), String> {
    match (force, request_id) {
        (true, None) => Err("`force` has no `requestId`".into()),
        _ => Ok(()),
    }
}

/// One of the sweeps of uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadSweep {
    /// Uploads that nobody confirmed.
    Abandoned,
    /// Scans and steps whose message was lost.
    Stuck,
    /// Uploads that no scan could accept.
    Failed,
    /// Files with malware.
    Infected,
    /// Files that newer ones have replaced.
    Superseded,
}

/// Sweep uploads. `{}` is all sweeps.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SweepUploads {
    /// Only this sweep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweep: Option<UploadSweep>,
    /// The slot; replaces "now" in every rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// Assets of one page, 200 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
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

impl From<SweepUploads> for Sweep {
    fn from(message: SweepUploads) -> Self {
        Self {
            as_of: message.as_of,
            batch_size: message.batch_size,
            pages: message.pages,
            dry_run: message.dry_run,
            cursor: message.cursor,
        }
    }
}

impl Message for SweepUploads {
    fn as_of(&self) -> Option<Timestamp> {
        self.as_of
    }

    fn validate(&self) -> Result<(), String> {
        Sweep::from(self.clone()).validate_with_pages_of(1..=1000)
    }
}

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode;

    #[test]
    fn what_is_asked_for_again_has_a_name() {
        assert!(decode::<ScanAsset>(json!({"assetId": "a", "reason": "rescan", "requestId": "r"})).is_ok());
        assert!(decode::<ProcessAsset>(json!({"assetId": "a", "force": true, "requestId": "r"})).is_ok());
        let errors = [
            decode::<ScanAsset>(json!({"assetId": "a", "reason": "rescan"})).unwrap_err(),
            decode::<ProcessAsset>(json!({"assetId": "a", "force": true})).unwrap_err(),
            decode::<ConvertAsset>(json!({"assetId": "a", "force": true})).unwrap_err(),
        ];
        assert_eq!(
            errors.map(|error| error.to_string()),
            [
                "invalid message: a `rescan` has no `requestId`",
                "invalid message: `force` has no `requestId`",
                "invalid message: `force` has no `requestId`"
            ]
        );
    }

    #[test]
    fn previews_of_one_and_of_many_are_told_apart_and_what_is_wrong_is_named() {
        let one = decode::<PreviewAsset>(json!({"assetId": "a", "type": "VIDEO", "storageKey": "assets/a/x"}));
        assert!(matches!(one.unwrap(), PreviewAsset::Single(_)));
        let many = json!({"mode": "bulk", "type": "AUDIO", "specVersion": 2, "cursor": "a", "pageSize": 500});
        let many = decode::<PreviewAsset>(many.clone())
            .map(|message| (message, many))
            .unwrap();
        assert_eq!(serde_json::to_value(many.0).unwrap(), many.1);
        for (message, reason) in [
            (json!({}), "missing field `assetId`"),
            (json!({"assetId": "../a"}), "`assetId`: an id is"),
            (json!({"assetId": "a", "force": true}), "`force` has no `requestId`"),
            (
                json!({"mode": "all", "specVersion": 1}),
                "`mode`: unknown variant `all`",
            ),
            (json!({"mode": "bulk"}), "missing field `specVersion`"),
            (
                json!({"mode": "bulk", "specVersion": 1, "pageSize": 501}),
                "`pageSize` is not between 1 and 500",
            ),
            (
                json!({"mode": "bulk", "specVersion": 1, "type": "IMAGE"}),
                "unknown variant `IMAGE`",
            ),
        ] {
            let error = decode::<PreviewAsset>(message.clone()).unwrap_err().to_string();
            assert!(error.contains(reason), "{message}: {error}");
        }
    }

    #[test]
    fn variants_are_called_what_their_files_are_called() {
        let names = [
            "webp",
            "avif",
            "size_400w",
            "size_800w",
            "size_1200w",
            "size_1920w",
            "optimized_mp4",
            "720p",
            "480p",
            "quality_high",
            "quality_medium",
            "quality_low",
            "aac",
        ];
        for name in names {
            let message = decode::<ConvertAsset>(json!({"assetId": "a", "variant": name})).unwrap();
            assert_eq!(serde_json::to_value(message).unwrap()["variant"], name);
        }
    }

    #[test]
    fn what_one_run_of_a_sweep_leaves_is_a_message_for_the_next() {
        let message = json!({"asOf": "2025-10-20T09:00:00Z", "batchSize": 1000, "pages": 1, "dryRun": true, "cursor": {"steps": {"a": "done"}, "report": {}}});
        let sweep = Sweep::from(decode::<SweepUploads>(message.clone()).unwrap());
        assert_eq!(serde_json::to_value(sweep).unwrap(), message);
        assert!(decode::<SweepUploads>(json!({"batchSize": 1001})).is_err());
    }
}
