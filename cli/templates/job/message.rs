/// {{about}}.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct {{Message}} {
    /// The row that it is about.
    pub id: Id,
    /// Replaces "now" (replays and tests).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
}

impl Message for {{Message}} {
    fn as_of(&self) -> Option<Timestamp> {
        self.as_of
    }
}
