//! S3: the objects of assets.
//!
//! * A key tells the bucket: what begins with `quarantine/` lies in `QUARANTINE_BUCKET` if there is one, all else in `ASSETS_BUCKET`.
//! * Every call may be repeated: looking changes nothing, and what is gone can be deleted again. So no time-out leaves a doubt.
//! * Our buckets keep versions. What is deleted cannot be read any more, and is gone for good when its last version expires, 30 days
//!   later (`infra/lib/storage.ts`).

mod key;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::FutureExt;
use futures::future::BoxFuture;
use sha2::{Digest, Sha256};

pub use self::key::{Folder, InvalidKey, ObjectKey};
use crate::{Aws, Error, Kind};

/// S3 deletes at most so many objects in one call.
const DELETIONS: usize = 1000;
/// S3 names no time when it asks us to slow down.
const SLOW_DOWN: Duration = Duration::from_secs(30);

/// Thirty days in whoever's cache, and nobody else's: the application signs an address for each reader.
const IMMUTABLE: &str = "private, max-age=2592000, immutable";

/// The buckets of this deployment.
#[derive(Debug)]
pub struct Storage {
    aws: Aws,
    client: OnceLock<Client>,
    assets: String,
    quarantine: String,
}

/// An object as a listing has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: ObjectKey,
    /// Its size.
    pub bytes: u64,
}

/// A part of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// At most a thousand objects, in the order of their keys.
    pub objects: Vec<Object>,
    /// Where the next part begins, if there is one. Deleting what is before it moves nothing.
    pub next: Option<String>,
}

/// What became of a download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Download {
    /// All of it is in the file.
    Complete(Content),
    /// There is no such object.
    Missing,
    /// It has more bytes than were wanted; the file holds nothing of use.
    TooLarge,
}

/// The content of a file or an object, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its size.
    pub bytes: u64,
    /// Its hash.
    pub sha256: [u8; 32],
}

/// What an object is to be stored with.
#[derive(Clone, Copy, Debug)]
pub struct Upload<'a> {
    /// Where.
    pub key: &'a ObjectKey,
    /// What; S3 refuses other bytes.
    pub content: &'a Content,
    /// Of what kind.
    pub mime_type: &'a str,
    /// What is told with it.
    pub metadata: &'a [(&'a str, &'a str)],
}

impl Content {
    /// That of a file, read a part at a time.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(file: &Path) -> std::io::Result<Self> {
        let (mut file, mut hasher) = (File::open(file)?, Hasher::default());
        std::io::copy(&mut file, &mut hasher)?;
        Ok(hasher.content())
    }

    /// The hash as databases and keys have it.
    pub fn sha256_hex(&self) -> String {
        self.sha256.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[derive(Default)]
struct Hasher {
    bytes: u64,
    sha256: Sha256,
}

impl Hasher {
    fn content(self) -> Content {
        Content {
            bytes: self.bytes,
            sha256: self.sha256.finalize().into(),
        }
    }
}

impl Write for Hasher {
    fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
        self.bytes += part.len() as u64;
        self.sha256.update(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An object that S3 did not delete, and why.
pub type Refused = (ObjectKey, Error);

impl Storage {
    /// From `ASSETS_BUCKET` and `QUARANTINE_BUCKET`. Connects to nothing yet.
    pub fn from_env(aws: &Aws) -> Result<Self, Error> {
        let bucket = |name: &str| std::env::var(name).ok().filter(|bucket| !bucket.is_empty());
        let assets = bucket("ASSETS_BUCKET").ok_or_else(|| Error::permanent("the environment has no ASSETS_BUCKET"))?;
        let quarantine = bucket("QUARANTINE_BUCKET").unwrap_or_else(|| assets.clone());
        Ok(Self::new(aws, assets, quarantine))
    }

    fn new(aws: &Aws, assets: String, quarantine: String) -> Self {
        Self {
            aws: aws.clone(),
            client: OnceLock::new(),
            assets,
            quarantine,
        }
    }

    fn client(&self) -> &Client {
        self.client.get_or_init(|| {
            let config = self.aws.of("S3");
            // Another endpoint than AWS's has no host name for each bucket.
            let has_one_host = config.endpoint_url().is_some();
            let config = aws_sdk_s3::config::Builder::from(&config)
                .force_path_style(has_one_host)
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
            Client::from_conf(config.build())
        })
    }

    fn bucket(&self, is_quarantined: bool) -> &str {
        if is_quarantined { &self.quarantine } else { &self.assets }
    }

    /// The size of an object in bytes; `None` when there is no such object.
    pub fn size<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<Option<u64>, Error>> {
        async move {
            let call = self.client().head_object().bucket(self.bucket(key.is_quarantined()));
            match call.key(key.as_str()).send().await {
                Ok(head) => Ok(Some(bytes(head.content_length()))),
                Err(error) if status(&error) == Some(404) => Ok(None),
                Err(error) => Err(classify("S3 did not tell the size of an object", &error)),
            }
        }
        .boxed()
    }

    /// Copies an object into a new file, a part at a time, unless it has more than `most` bytes.
    pub fn download<'a>(
        &'a self,
        key: &'a ObjectKey,
        file: &'a Path,
        most: u64,
    ) -> BoxFuture<'a, Result<Download, Error>> {
        async move {
            let what = "S3 did not give an object";
            let call = self.client().get_object().bucket(self.bucket(key.is_quarantined()));
            let mut object = match call.key(key.as_str()).send().await {
                Ok(object) => object,
                // A bucket that is missing is not an object that is.
                Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => {
                    return Ok(Download::Missing);
                }
                Err(error) => return Err(classify(what, &error)),
            };
            if bytes(object.content_length()) > most {
                return Ok(Download::TooLarge);
            }
            let unwritable = |error| Error::transient("an object could not be written to a file").caused_by(error);
            let (mut file, mut hasher) = (File::create(file).map_err(unwritable)?, Hasher::default());
            while let Some(part) = object.body.next().await {
                let part = part.map_err(|error| Error::transient(what).caused_by(error))?;
                hasher.write_all(&part).map_err(unwritable)?;
                if hasher.bytes > most {
                    return Ok(Download::TooLarge);
                }
                file.write_all(&part).map_err(unwritable)?;
            }
            Ok(Download::Complete(hasher.content()))
        }
        .boxed()
    }

    /// Stores a file as an object, or in the place of one; whoever has it may keep it for a month.
    pub fn upload<'a>(&'a self, file: &'a Path, upload: Upload<'a>) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let unreadable = |error| Error::transient("a file could not be read").caused_by(error);
            let body = ByteStream::from_path(file).await.map_err(unreadable)?;
            let bucket = self.bucket(upload.key.is_quarantined());
            let call = self
                .client()
                .put_object()
                .bucket(bucket)
                .key(upload.key.as_str())
                .body(body);
            let call = call
                .content_length(upload.content.bytes.cast_signed())
                .content_type(upload.mime_type)
                .cache_control(IMMUTABLE)
                .checksum_sha256(BASE64.encode(upload.content.sha256));
            let told = upload.metadata.iter();
            let call = told.fold(call, |call, (name, value)| call.metadata(*name, *value));
            let answer = call.send().await;
            answer
                .map(drop)
                .map_err(|error| classify("S3 did not store an object", &error))
        }
        .boxed()
    }

    /// A part of a folder: its beginning, or what comes after the part that named `after`.
    pub fn list<'a>(&'a self, folder: &'a Folder, after: Option<String>) -> BoxFuture<'a, Result<Listing, Error>> {
        async move {
            let call = self
                .client()
                .list_objects_v2()
                .bucket(self.bucket(folder.is_quarantined()));
            let call = call.prefix(folder.as_str()).set_continuation_token(after);
            let answer = call
                .send()
                .await
                .map_err(|error| classify("S3 did not list a folder", &error))?;
            let object = |object: &aws_sdk_s3::types::Object| {
                Some(Object {
                    key: ObjectKey::listed(object.key()?),
                    bytes: bytes(object.size()),
                })
            };
            Ok(Listing {
                objects: answer.contents().iter().filter_map(object).collect(),
                next: answer.next_continuation_token().map(str::to_owned),
            })
        }
        .boxed()
    }

    /// Deletes an object, or finds it gone.
    pub fn delete<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Result<(), Error>> {
        async move {
            let call = self.client().delete_object().bucket(self.bucket(key.is_quarantined()));
            let answer = call.key(key.as_str()).send().await;
            answer
                .map(drop)
                .map_err(|error| classify("S3 did not delete an object", &error))
        }
        .boxed()
    }

    /// Deletes objects, a thousand a call, or finds them gone. Answers those that S3 refused to delete, one by one; an error is one of
    /// the call, and then any of the objects may be there.
    pub fn delete_all<'a>(&'a self, keys: &'a [ObjectKey]) -> BoxFuture<'a, Result<Vec<Refused>, Error>> {
        async move {
            let mut refused = Vec::new();
            let mut by_bucket = BTreeMap::<_, Vec<_>>::new();
            for key in keys {
                by_bucket
                    .entry(self.bucket(key.is_quarantined()))
                    .or_default()
                    .push(key);
            }
            for (bucket, keys) in by_bucket {
                for some in keys.chunks(DELETIONS) {
                    self.delete_some(bucket, some, &mut refused).await?;
                }
            }
            Ok(refused)
        }
        .boxed()
    }

    async fn delete_some(&self, bucket: &str, keys: &[&ObjectKey], refused: &mut Vec<Refused>) -> Result<(), Error> {
        let unusable = |error| Error::permanent("a deletion could not be written").caused_by(error);
        let objects = keys
            .iter()
            .map(|key| ObjectIdentifier::builder().key(key.as_str()).build());
        let objects = objects.collect::<Result<Vec<_>, _>>().map_err(unusable)?;
        let deletion = Delete::builder().set_objects(Some(objects)).quiet(true);
        let call = self.client().delete_objects().bucket(bucket);
        let answer = call.delete(deletion.build().map_err(unusable)?).send().await;
        let answer = answer.map_err(|error| classify("S3 did not delete objects", &error))?;
        for error in answer.errors() {
            if let Some(key) = keys.iter().find(|key| Some(key.as_str()) == error.key()) {
                let code = error.code().unwrap_or("unknown");
                let error = Error::new(kind(code, None), format!("S3 did not delete an object: {code}"));
                refused.push(((*key).clone(), error));
            }
        }
        Ok(())
    }
}

fn bytes(length: Option<i64>) -> u64 {
    length.unwrap_or_default().unsigned_abs()
}

fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// The key stays out of the text: it may hold the name of a person's file.
fn classify<E>(what: &str, error: &SdkError<E, HttpResponse>) -> Error
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    match error {
        SdkError::ServiceError(refusal) => {
            let (code, status) = (refusal.err().code().unwrap_or_default(), status(error));
            let cause = format!("{} {code}", status.unwrap_or_default());
            Error::new(kind(code, status), what).caused_by(cause.trim_end())
        }
        SdkError::ConstructionFailure(_) => Error::permanent(what).caused_by(DisplayErrorContext(error).to_string()),
        // No answer, or none that could be read.
        _ => Error::transient(what).caused_by(DisplayErrorContext(error).to_string()),
    }
}

/// What may be done about a refusal. A HEAD is refused without a code, an object of many without a status.
fn kind(code: &str, status: Option<u16>) -> Kind {
    match (code, status) {
        ("SlowDown" | "ServiceUnavailable" | "ThrottlingException" | "RequestLimitExceeded", _)
        | (_, Some(429 | 503)) => Kind::Throttled(SLOW_DOWN),
        ("InternalError" | "RequestTimeout" | "OperationAborted" | "ExpiredToken", _) | (_, Some(500..)) => {
            Kind::Transient
        }
        // It was damaged on its way.
        ("BadDigest" | "IncompleteBody", _) => Kind::Transient,
        _ => Kind::Permanent,
    }
}

#[cfg(test)]
mod tests {
    use testkit::storage::Refusal;

    use super::*;

    async fn world() -> (testkit::Storage, Storage) {
        let s3 = testkit::Storage::start().await.unwrap();
        let storage = Storage::new(&Aws::at(s3.address()), "assets".into(), "quarantine".into());
        (s3, storage)
    }

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    #[tokio::test]
    async fn an_object_has_a_size_until_it_is_deleted_and_then_none() {
        let (s3, storage) = world().await;
        let key = key("uploads/u1/a1/my photo (1) é+&.jpg");
        s3.put("assets", key.as_str(), "four");

        assert_eq!(storage.size(&key).await.unwrap(), Some(4));
        for _ in 0..2 {
            storage.delete(&key).await.unwrap();
            assert_eq!(storage.size(&key).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn an_object_comes_down_as_it_went_up_and_tells_what_it_is() {
        let (s3, storage) = world().await;
        let folder = std::env::temp_dir().join(format!("storage-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (up, down) = (folder.join("up"), folder.join("down"));
        std::fs::write(&up, vec![7; 300_000]).unwrap();
        let (key, content) = (key("derived/a1/9f86d081884c-v1/preview.mp4"), Content::of(&up).unwrap());
        let upload = Upload {
            key: &key,
            content: &content,
            mime_type: "video/mp4",
            metadata: &[("asset-id", "a1"), ("variant", "preview")],
        };

        storage.upload(&up, upload).await.unwrap();

        let stored = s3.object("assets", key.as_str()).unwrap();
        assert_eq!(stored.header("content-type"), Some("video/mp4"));
        assert_eq!(stored.header("cache-control"), Some(IMMUTABLE));
        assert_eq!(stored.header("x-amz-meta-asset-id"), Some("a1"));
        assert_eq!(
            stored.header("x-amz-checksum-sha256"),
            Some(&*BASE64.encode(content.sha256))
        );
        let complete = Download::Complete(content.clone());
        assert_eq!(storage.download(&key, &down, 300_000).await.unwrap(), complete);
        assert_eq!(std::fs::read(&down).unwrap(), std::fs::read(&up).unwrap());
        assert_eq!(
            storage.download(&key, &down, 299_999).await.unwrap(),
            Download::TooLarge
        );
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn what_is_not_there_is_missing_and_what_may_not_be_read_is_an_error() {
        let (s3, storage) = world().await;
        let file = std::env::temp_dir().join(format!("storage-missing-{}", std::process::id()));
        let key = key("assets/a1/9f86d081884c/original.mp4");
        assert_eq!(storage.download(&key, &file, 10).await.unwrap(), Download::Missing);
        for (refusal, kind) in [
            (Refusal::NoSuchBucket, Kind::Permanent),
            (Refusal::AccessDenied, Kind::Permanent),
            (Refusal::Cut, Kind::Transient),
        ] {
            s3.fail_next(1, refusal);
            assert_eq!(
                storage.download(&key, &file, 10).await.unwrap_err().kind,
                kind,
                "{refusal:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_key_tells_the_bucket() {
        let (s3, storage) = world().await;
        s3.put("quarantine", "quarantine/a1/x", "bad");
        s3.put("assets", "quarantine/a2/x", "misplaced");

        assert_eq!(storage.size(&key("quarantine/a1/x")).await.unwrap(), Some(3));
        assert_eq!(storage.size(&key("quarantine/a2/x")).await.unwrap(), None);
        let refused = storage
            .delete_all(&[key("quarantine/a1/x"), key("uploads/x")])
            .await
            .unwrap();
        assert!(refused.is_empty(), "{refused:?}");
        assert_eq!(s3.keys("quarantine"), [""; 0]);
        assert_eq!(s3.keys("assets"), ["quarantine/a2/x"]);
    }

    #[tokio::test]
    async fn a_folder_of_any_size_is_listed_and_deleted_part_by_part() {
        let (s3, storage) = world().await;
        for n in 0..2500 {
            s3.put("assets", &format!("derived/a1/{n:04}"), "ab");
        }
        s3.put("assets", "derived/a10/kept", "x");
        let folder = Folder::new("derived", "a1").unwrap();

        let (mut parts, mut bytes, mut next) = (Vec::new(), 0, None);
        loop {
            let listing = storage.list(&folder, next).await.unwrap();
            let keys: Vec<_> = listing.objects.iter().map(|object| object.key.clone()).collect();
            bytes += listing.objects.iter().map(|object| object.bytes).sum::<u64>();
            parts.push(keys.len());
            assert!(storage.delete_all(&keys).await.unwrap().is_empty());
            next = listing.next;
            if next.is_none() {
                break;
            }
        }
        assert_eq!((parts, bytes), (vec![1000, 1000, 500], 5000));
        assert_eq!(s3.keys("assets"), ["derived/a10/kept"]);
    }

    #[tokio::test]
    async fn one_object_of_many_may_be_refused_and_it_alone() {
        let (s3, storage) = world().await;
        let keys = ["a", "b", "c"].map(key);
        for key in &keys {
            s3.put("assets", key.as_str(), "x");
        }
        s3.refuse("b", Refusal::AccessDenied);

        let refused = storage.delete_all(&keys).await.unwrap();

        let refused: Vec<_> = refused.iter().map(|(key, error)| (key.as_str(), error.kind)).collect();
        assert_eq!(refused, [("b", Kind::Permanent)]);
        assert_eq!(s3.keys("assets"), ["b"]);
    }

    #[tokio::test]
    async fn what_s3_says_of_a_call_tells_what_may_be_done() {
        let (s3, storage) = world().await;
        let folder = Folder::new("derived", "a1").unwrap();
        for (refusal, expected) in [
            (Refusal::SlowDown, Kind::Throttled(SLOW_DOWN)),
            (Refusal::InternalError, Kind::Transient),
            (Refusal::AccessDenied, Kind::Permanent),
            (Refusal::NoSuchBucket, Kind::Permanent),
            (Refusal::Cut, Kind::Transient),
        ] {
            let mut kinds = Vec::new();
            s3.fail_next(1, refusal);
            kinds.extend(storage.list(&folder, None).await.err());
            s3.fail_next(1, refusal);
            kinds.extend(storage.delete(&key("a")).await.err());
            s3.fail_next(1, refusal);
            kinds.extend(storage.delete_all(&[key("a")]).await.err());
            // A HEAD has no body that could tell a bucket that is missing from an object that is.
            if refusal != Refusal::NoSuchBucket {
                s3.fail_next(1, refusal);
                kinds.extend(storage.size(&key("a")).await.err());
            }
            let kinds: Vec<_> = kinds.iter().map(|error| error.kind).collect();
            let calls = if refusal == Refusal::NoSuchBucket { 3 } else { 4 };
            assert_eq!(kinds, vec![expected; calls], "{refusal:?}");
        }
    }

    #[tokio::test]
    async fn an_error_does_not_name_the_key() {
        let (s3, storage) = world().await;
        for refusal in [Refusal::AccessDenied, Refusal::Cut] {
            s3.fail_next(1, refusal);
            let error = storage.delete(&key("uploads/u1/a1/my divorce.pdf")).await.unwrap_err();
            assert!(!error.chain().contains("divorce"), "{}", error.chain());
        }
        s3.fail_next(1, Refusal::AccessDenied);
        let error = storage.delete(&key("a")).await.unwrap_err();
        assert_eq!(error.chain(), "S3 did not delete an object: 403 AccessDenied");
    }
}
