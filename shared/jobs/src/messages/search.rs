use super::*;

/// What full-text search finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SearchEntity {
    /// `ip_assets`.
    Asset,
    /// `creators`.
    Creator,
    /// `projects`.
    Project,
    /// `licenses`.
    License,
    /// `posts`.
    BlogPost,
}

impl SearchEntity {
    /// All, in the order of a reindex.
    pub const ALL: [Self; 5] = [Self::Asset, Self::Creator, Self::Project, Self::License, Self::BlogPost];

    /// As in messages and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asset => "asset",
            Self::Creator => "creator",
            Self::Project => "project",
            Self::License => "license",
            Self::BlogPost => "blog_post",
        }
    }
}

/// What happened to a row. A hint: the row itself decides what becomes of its vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SearchOperation {
    /// It is new.
    Create,
    /// It was changed.
    Update,
    /// It was deleted, softly or for good.
    Delete,
}

/// Put one row right in the search index, and ask for the rows whose text comes from it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateSearchIndex {
    /// Of which table.
    pub entity_type: SearchEntity,
    /// Which row.
    pub entity_id: Id,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<SearchOperation>,
}

impl Message for UpdateSearchIndex {}

/// Whose rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SearchFilter {
    /// Licences and projects of the brand.
    BrandId(Id),
    /// Licences of the asset.
    IpAssetId(Id),
    /// Licences and assets of the project.
    ProjectId(Id),
}

/// Put many rows right in the search index: a list, or all of a brand, an asset or a project.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BulkUpdateSearchIndex {
    /// Of which table.
    pub entity_type: SearchEntity,
    /// These rows, 1 to 1000; or else `filter`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub entity_ids: Vec<Id>,
    /// All rows of one brand, asset or project; or else `entityIds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<SearchFilter>,
    /// Of a continued run: the last row of the filter that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Id>,
}

impl BulkUpdateSearchIndex {
    /// The most rows of one list.
    pub const MAX_IDS: usize = 1000;
}

impl Message for BulkUpdateSearchIndex {
    fn validate(&self) -> Result<(), String> {
        use SearchEntity::{Asset, License, Project};
        use SearchFilter::{BrandId, IpAssetId, ProjectId};

        match (self.entity_ids.len(), &self.filter) {
            (0, None) => Err("there are neither `entityIds` nor a `filter`".into()),
            (1.., Some(_)) => Err("there are both `entityIds` and a `filter`".into()),
            (1001.., None) => Err("`entityIds` has more than 1000 ids".into()),
            (_, None) => Ok(()),
            (_, Some(filter)) => match (self.entity_type, filter) {
                (License, _) | (Project, BrandId(_)) | (Asset, ProjectId(_)) => Ok(()),
                (entity, BrandId(_)) => Err(format!("a {} has no `brandId`", entity.as_str())),
                (entity, IpAssetId(_)) => Err(format!("a {} has no `ipAssetId`", entity.as_str())),
                (entity, ProjectId(_)) => Err(format!("a {} has no `projectId`", entity.as_str())),
            },
        }
    }
}

/// How far a reindex is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReindexCursor {
    /// The table that it is at.
    pub entity_type: SearchEntity,
    /// The last row that is done; empty before the first.
    pub after: String,
}

/// Go through everything that can be found, and write what is wrong in the search index.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReindexSearch {
    /// Only this table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity_type: Option<SearchEntity>,
    /// Rows of one page: 10 to 1000, 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 1000))]
    pub batch_size: Option<u32>,
    /// Of a continued run: the row of `search_reindex_runs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<Id>,
    /// Of a continued run: where it goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<ReindexCursor>,
    /// The slot; rows are compared as they are now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
}

impl Message for ReindexSearch {
    fn as_of(&self) -> Option<Timestamp> {
        self.as_of
    }

    fn validate(&self) -> Result<(), String> {
        if self.batch_size.is_some_and(|size| !(10..=1000).contains(&size)) {
            return Err("`batchSize` is not between 10 and 1000".into());
        }
        if self.run_id.is_some() != self.cursor.is_some() {
            return Err("`runId` and `cursor` come together".into());
        }
        Ok(())
    }
}
