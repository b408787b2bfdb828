//! A stand-in for Amazon S3: keeps objects in memory, by bucket and key, and refuses what it is told to refuse.
//!
//! Hand-made, like the queues and the mailbox, on the same HTTP server: jobs need six operations of S3, and tests must refuse single
//! keys and calls, and count them. The crate `s3s` with its `s3s-fs` would bring eighteen crates and an HTTP stack of its own, and each
//! operation would have to be wrapped all the same; what S3 really answers, both only imitate.

mod api;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::http::Background;

/// The S3 of one test. Clones are the same. Buckets appear when they are first named.
#[derive(Clone, Debug)]
pub struct Storage {
    shared: Arc<Shared>,
    address: String,
    _server: Arc<Background>,
}

type Shared = Mutex<State>;

#[derive(Debug, Default)]
struct State {
    buckets: BTreeMap<String, BTreeMap<String, Object>>,
    next: VecDeque<Refusal>,
    refused: HashMap<String, Refusal>,
    calls: Vec<String>,
}

/// What was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its content.
    pub body: Bytes,
    headers: BTreeMap<String, String>,
}

impl Object {
    /// What was said of it when it was stored: its type, its metadata, by names in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// An answer that is not what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// HTTP 503: too many requests.
    SlowDown,
    /// HTTP 500.
    InternalError,
    /// HTTP 403.
    AccessDenied,
    /// HTTP 404.
    NoSuchBucket,
    /// Nothing was done, and the connection is cut.
    Cut,
}

impl Storage {
    /// An empty S3 on a free port.
    ///
    /// # Errors
    ///
    /// When there is no port to be had.
    pub async fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (server, address) = Background::serve(api::Api(shared.clone())).await?;
        Ok(Self {
            shared,
            address: format!("http://{address}"),
            _server: Arc::new(server),
        })
    }

    /// What `AWS_ENDPOINT_URL_S3` is to be.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Puts an object there, or another in its place.
    pub fn put(&self, bucket: &str, key: &str, body: impl Into<Bytes>) {
        let object = Object {
            body: body.into(),
            headers: BTreeMap::new(),
        };
        self.state().put(bucket, key, object);
    }

    /// An object, if it is there.
    pub fn object(&self, bucket: &str, key: &str) -> Option<Object> {
        self.state().buckets.get(bucket)?.get(key).cloned()
    }

    /// The keys of a bucket, in their order.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        let state = self.state();
        let objects = state.buckets.get(bucket);
        objects.map_or_else(Vec::new, |objects| objects.keys().cloned().collect())
    }

    /// The next `count` calls get this answer.
    pub fn fail_next(&self, count: usize, refusal: Refusal) {
        self.state().next.extend(std::iter::repeat_n(refusal, count));
    }

    /// Deleting this key gets this answer, in whatever bucket and call.
    pub fn refuse(&self, key: &str, refusal: Refusal) {
        self.state().refused.insert(key.to_owned(), refusal);
    }

    /// Forgets all refusals that were arranged.
    pub fn recover(&self) {
        let mut state = self.state();
        state.next.clear();
        state.refused.clear();
    }

    /// All calls so far, by operation, with bucket and key or prefix: `HEAD assets/a`.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared)
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
