use std::path::Path;
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use services::storage::{Content, ObjectKey, Upload};
use services::{Error, Storage};
use sqlx::PgConnection;

use crate::step::Asset;

/// A file that was made of an asset.
#[derive(Clone, Debug)]
pub struct Variant {
    /// `preview`, `waveform` and so on.
    pub kind: &'static str,
    /// Among its kind.
    pub name: &'static str,
    /// Where it is.
    pub key: ObjectKey,
    /// What is in it.
    pub content: Content,
    /// Its type.
    pub mime_type: &'static str,
    /// The version of the rules by which it was made.
    pub version: u32,
    /// Its pixels from left to right, and from top to bottom.
    pub size: Option<(u32, u32)>,
    /// How long it is.
    pub duration: Option<Duration>,
    /// Bits a second.
    pub bitrate: Option<u64>,
}

impl Variant {
    /// Stores its file. It may be stored again: the same rules make the same of the same.
    ///
    /// # Errors
    /// Those of the storage.
    pub async fn store(&self, storage: &Storage, asset: &Asset, file: &Path) -> Result<(), Error> {
        let metadata = [("asset-id", asset.id.as_str()), ("variant", self.name)];
        let upload = Upload {
            key: &self.key,
            content: &self.content,
            mime_type: self.mime_type,
            metadata: &metadata,
        };
        storage.upload(file, upload).await
    }

    /// Makes it the live one, after it was stored. What was live and lies elsewhere is superseded; its object goes a week later
    /// (spec: assets, `asset-cleanup` step 7).
    ///
    /// # Errors
    /// Those of the database.
    pub fn record<'a>(
        &'a self,
        connection: &'a mut PgConnection,
        asset: &'a Asset,
    ) -> LocalBoxFuture<'a, Result<(), Error>> {
        async move {
            sqlx::query!(
                "UPDATE asset_variants SET superseded_at = now()
                 WHERE asset_id = $1 AND kind = $2 AND name = $3 AND superseded_at IS NULL AND storage_key <> $4",
                asset.id,
                self.kind,
                self.name,
                self.key.as_str(),
            )
            .execute(&mut *connection)
            .await?;
            // By rules that are back: its object is live again, and must not go with the row that was superseded.
            sqlx::query!(
                "DELETE FROM asset_variants WHERE asset_id = $1 AND storage_key = $2 AND superseded_at IS NOT NULL",
                asset.id,
                self.key.as_str(),
            )
            .execute(&mut *connection)
            .await?;
            let int = |number: u64| i32::try_from(number).unwrap_or(i32::MAX);
            sqlx::query!(
                "INSERT INTO asset_variants (asset_id, kind, name, storage_key, mime_type, file_size, width, height, duration_ms, bitrate,
                                             checksum_sha256, params_version)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
                 ON CONFLICT (asset_id, kind, name) WHERE superseded_at IS NULL DO UPDATE
                 SET mime_type = excluded.mime_type, file_size = excluded.file_size, width = excluded.width, height = excluded.height,
                     duration_ms = excluded.duration_ms, bitrate = excluded.bitrate, checksum_sha256 = excluded.checksum_sha256,
                     params_version = excluded.params_version",
                asset.id,
                self.kind,
                self.name,
                self.key.as_str(),
                self.mime_type,
                self.content.bytes.cast_signed(),
                self.size.map(|(width, _)| int(width.into())),
                self.size.map(|(_, height)| int(height.into())),
                self.duration.map(|duration| int(duration.as_millis().try_into().unwrap_or(u64::MAX))),
                self.bitrate.map(int),
                self.content.sha256_hex(),
                i32::try_from(self.version).unwrap_or(i32::MAX),
            )
            .execute(&mut *connection)
            .await?;
            Ok(())
        }
        .boxed_local()
    }
}
