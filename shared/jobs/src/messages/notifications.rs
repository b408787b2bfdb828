use super::*;
use crate::Sweep;

/// Deliver one notification: visible in the app, and at most one e-mail.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliverNotification {
    /// The row of `notifications`.
    pub notification_id: Id,
    /// Replaces "now" (replays and tests).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
}

impl Message for DeliverNotification {
    fn as_of(&self) -> Option<Timestamp> {
        self.as_of
    }
}

/// Which digests to send: those of a frequency, or all that are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum DigestFrequency {
    /// Once a day.
    Daily,
    /// Once a week.
    Weekly,
    /// Both.
    All,
}

/// In any case.
impl<'de> Deserialize<'de> for DigestFrequency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match name.to_ascii_uppercase().as_str() {
            "DAILY" => Ok(Self::Daily),
            "WEEKLY" => Ok(Self::Weekly),
            "ALL" => Ok(Self::All),
            _ => Err(serde::de::Error::custom("not DAILY, WEEKLY or ALL")),
        }
    }
}

/// Send the digests whose hour has come: of notifications, of messages or of held e-mails, as the job says.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SendDigests {
    /// Whose digests.
    pub frequency: DigestFrequency,
    /// The slot: digests whose hour came shortly before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// Only users after this one: where a run that had no time left ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Id>,
    /// Only users up to this one: the end of a share of a large slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Id>,
    /// Only these users (at most 100).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub user_ids: Vec<Id>,
    /// Whatever the hour; only with `userIds` and `triggerId`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Names a forced digest: the same user gets it once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger_id: Option<Id>,
}

impl Message for SendDigests {
    fn as_of(&self) -> Option<Timestamp> {
        self.as_of
    }

    fn validate(&self) -> Result<(), String> {
        if self.user_ids.len() > 100 {
            return Err("`userIds` has more than 100 ids".into());
        }
        if self.force && self.user_ids.is_empty() {
            return Err("`force` needs `userIds`".into());
        }
        if self.force && self.trigger_id.is_none() {
            return Err("`force` needs a `triggerId`".into());
        }
        Ok(())
    }
}

/// Sweep notifications and the mail ledger. A page may be larger than of other sweeps.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SweepNotifications(pub Sweep);

impl Message for SweepNotifications {
    fn as_of(&self) -> Option<Timestamp> {
        self.0.as_of
    }

    fn validate(&self) -> Result<(), String> {
        self.0.validate_with_pages_of(100..=20_000)
    }
}
