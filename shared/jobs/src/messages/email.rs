use super::*;

/// Send what is due in the mail ledger: retries, deferred and scheduled mail.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DispatchEmail {
    /// Replaces "now" in the rules about the mails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// The most mails of one run: 1 to 5000, 1000 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5000))]
    pub limit: Option<u32>,
    /// Only these mails (at most 100).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub email_ids: Vec<Id>,
}

impl Message for DispatchEmail {
    fn as_of(&self) -> Option<Timestamp> {
        self.as_of
    }

    fn validate(&self) -> Result<(), String> {
        if self.limit.is_some_and(|limit| !(1..=5000).contains(&limit)) {
            return Err("`limit` is not between 1 and 5000".into());
        }
        if self.email_ids.len() > 100 {
            return Err("`emailIds` has more than 100 ids".into());
        }
        Ok(())
    }
}
