use super::*;

/// Send the outbox rows that a crash left behind.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RelayOutbox {
    /// The slot; the relay itself works by the database's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
}

impl Message for RelayOutbox {
    fn as_of(&self) -> Option<Timestamp> {
        self.as_of
    }
}
