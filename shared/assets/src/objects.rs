use std::collections::{BTreeMap, HashSet};

use futures::FutureExt;
use futures::future::{BoxFuture, LocalBoxFuture};
use futures::stream::{self, StreamExt, TryStreamExt};
use services::storage::{Folder, InvalidKey, Listing, Object, ObjectKey};
use services::{Error, Kind, Storage};

/// Assets that are looked at side by side.
const AT_ONCE: usize = 16;
/// What the jobs make of an asset, and keep by its id.
const FOLDERS: [&str; 2] = ["assets", "derived"];

/// An asset whose objects are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned {
    /// The row of `ip_assets`.
    pub id: String,
    /// The key of its original.
    original: String,
    /// Other keys that its rows name; `None` when nothing was made of it yet.
    generated: Option<Vec<String>>,
}

/// What became of an asset's objects. In a dry run: what would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destroyed {
    /// The row of `ip_assets`.
    pub id: String,
    /// Objects that are gone.
    pub objects: i64,
    /// Their sizes.
    pub bytes: i64,
    /// Objects that S3 did not delete.
    pub left: i64,
    /// Keys that are none. They are passed over: there can be no such object.
    pub invalid: i64,
}

impl Condemned {
    /// An upload that nothing was made of.
    pub fn upload(id: String, key: String) -> Self {
        Self {
            id,
            original: key,
            generated: None,
        }
    }

    pub(crate) fn asset(id: String, original: String, generated: Vec<String>) -> Self {
        Self {
            id,
            original,
            generated: Some(generated),
        }
    }

    fn folders(&self) -> Result<Vec<Folder>, InvalidKey> {
        let kinds = self.generated.iter().flat_map(|_| FOLDERS);
        kinds.map(|kind| Folder::new(kind, &self.id)).collect()
    }

    fn keys(&self) -> impl Iterator<Item = Result<ObjectKey, InvalidKey>> {
        let generated = self.generated.iter().flatten().map(|key| ObjectKey::new(key));
        std::iter::once(ObjectKey::original(&self.original)).chain(generated)
    }
}

impl Destroyed {
    /// Whether an object is still there.
    pub fn is_incomplete(&self) -> bool {
        self.left > 0
    }

    /// What a report counts as errors.
    pub fn errors(&self) -> i64 {
        self.left + self.invalid
    }
}

/// What was found of one asset.
struct Inventory {
    destroyed: Destroyed,
    objects: Vec<Object>,
    /// Folders with more than one part, and where the second one begins.
    rest: Vec<(Folder, String)>,
}

/// Deletes the objects of assets, after their mark was committed; in a dry run only measures them. Answers for each asset, in order. An
/// error is one of S3 as a whole: any of the objects may be gone, and all may be tried again.
pub fn destroy<'a>(
    storage: &'a Storage,
    condemned: &'a [Condemned],
    is_dry_run: bool,
) -> LocalBoxFuture<'a, Result<Vec<Destroyed>, Error>> {
    async move {
        let looking = stream::iter(condemned).map(|asset| inventory(storage, asset));
        let mut inventories: Vec<_> = looking.buffered(AT_ONCE).try_collect().await?;
        let deletion = Deletion { storage, is_dry_run };
        let found = inventories.iter_mut().enumerate();
        let found = found.flat_map(|(index, inventory)| inventory.objects.drain(..).map(move |object| (index, object)));
        let found: Vec<_> = found.collect();
        deletion.delete(&mut inventories, found).await?;
        for index in 0..inventories.len() {
            for (folder, next) in std::mem::take(&mut inventories[index].rest) {
                let mut next = Some(next);
                while next.is_some() {
                    let listing: Listing = once_more(|| storage.list(&folder, next.clone())).await?;
                    let found = listing.objects.into_iter().map(|object| (index, object)).collect();
                    deletion.delete(&mut inventories, found).await?;
                    next = listing.next;
                }
            }
        }
        Ok(inventories.into_iter().map(|inventory| inventory.destroyed).collect())
    }
    .boxed_local()
}

/// What there is of an asset: what lies in its folders, and what its rows name. What is not there is not deleted: in a bucket with
/// versions that would leave a marker for it.
async fn inventory(storage: &Storage, asset: &Condemned) -> Result<Inventory, Error> {
    let mut destroyed = Destroyed {
        id: asset.id.clone(),
        objects: 0,
        bytes: 0,
        left: 0,
        invalid: 0,
    };
    let (mut objects, mut listed, mut rest) = (BTreeMap::new(), Vec::new(), Vec::new());
    let folders = asset.folders().unwrap_or_else(|error| {
        destroyed.invalid += 1;
        tracing::warn!(asset_id = asset.id, %error, "an asset has no folders");
        Vec::new()
    });
    for folder in folders {
        let listing = once_more(|| storage.list(&folder, None)).await?;
        objects.extend(listing.objects.into_iter().map(|object| (object.key, object.bytes)));
        match listing.next {
            Some(next) => rest.push((folder, next)),
            None => listed.push(folder),
        }
    }
    for key in asset.keys() {
        let key = match key {
            Ok(key) => key,
            Err(error) => {
                destroyed.invalid += 1;
                tracing::warn!(asset_id = asset.id, %error, "a key is passed over");
                continue;
            }
        };
        let is_known = objects.contains_key(&key) || listed.iter().any(|folder| key.is_in(folder));
        if is_known {
            continue;
        }
        match once_more(|| storage.size(&key)).await {
            Ok(Some(bytes)) => {
                objects.insert(key, bytes);
            }
            Ok(None) => {}
            Err(error) if error.kind == Kind::Permanent => {
                destroyed.left += 1;
                tracing::warn!(asset_id = asset.id, error = error.chain(), "an object stays");
            }
            Err(error) => return Err(error),
        }
    }
    let objects = objects.into_iter().map(|(key, bytes)| Object { key, bytes }).collect();
    Ok(Inventory {
        destroyed,
        objects,
        rest,
    })
}

struct Deletion<'a> {
    storage: &'a Storage,
    is_dry_run: bool,
}

impl Deletion<'_> {
    /// Deletes objects of assets, which are known by their places, and counts.
    async fn delete(&self, assets: &mut [Inventory], found: Vec<(usize, Object)>) -> Result<(), Error> {
        let keys: Vec<_> = found.iter().map(|(_, object)| object.key.clone()).collect();
        let refused = match self.is_dry_run || keys.is_empty() {
            true => Vec::new(),
            false => once_more(|| self.storage.delete_all(&keys)).await?,
        };
        let mut left = HashSet::new();
        for (key, error) in &refused {
            left.insert(key);
            tracing::warn!(error = error.chain(), "an object stays");
        }
        for (index, object) in found {
            let destroyed = &mut assets[index].destroyed;
            if left.contains(&object.key) {
                destroyed.left += 1;
            } else {
                destroyed.objects += 1;
                destroyed.bytes += object.bytes.cast_signed();
            }
        }
        Ok(())
    }
}

/// A call that got no answer is made again, once: all of these may be repeated.
async fn once_more<'f, T>(call: impl Fn() -> BoxFuture<'f, Result<T, Error>>) -> Result<T, Error> {
    match call().await {
        Err(error) if error.kind == Kind::Transient => call().await,
        answer => answer,
    }
}
