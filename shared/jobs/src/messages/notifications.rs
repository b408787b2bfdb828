use super::*;

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
