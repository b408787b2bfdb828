/// {{about}}.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct {{Message}} {
    /// The slot; replaces "now".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// Only say what would be done.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl Message for {{Message}} {
    fn as_of(&self) -> Option<Timestamp> {
        self.as_of
    }
}
