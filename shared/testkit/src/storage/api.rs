//! S3's REST protocol, path-style: `/<bucket>/<key>`.

use std::fmt::Write as _;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::{Object, Refusal, Shared, State, lock};
use crate::http::{Answer, Reply, Request, Service};

/// What is remembered of a PUT beside its body.
const KEPT: [&str; 5] = [
    "content-type",
    "cache-control",
    "x-amz-checksum-sha256",
    "x-amz-meta-asset-id",
    "x-amz-meta-variant",
];
/// Of one listing, and of one deletion.
const MOST_KEYS: usize = 1000;

#[derive(Clone)]
pub(super) struct Api(pub(super) Arc<Shared>);

impl Service for Api {
    async fn reply(&self, request: Request) -> Reply {
        lock(&self.0).reply(&request)
    }
}

impl State {
    fn reply(&mut self, request: &Request) -> Reply {
        let (path, query) = request.target().split_once('?').unwrap_or((request.target(), ""));
        let path = path.trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let (bucket, key) = (decode(bucket), decode(key));
        let parameter = |name: &str| {
            let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| decode(value))
        };
        let prefix = parameter("prefix").unwrap_or_default();
        let operation = match (request.method(), key.is_empty()) {
            ("GET", true) => "LIST",
            ("POST", true) if parameter("delete").is_some() => "DELETE-MANY",
            (method, false) => method,
            _ => "",
        };
        self.calls.push(format!("{operation} {bucket}/{key}{prefix}"));
        if let Some(refusal) = self.next.pop_front() {
            return refusal.reply();
        }
        match operation {
            "HEAD" | "GET" => self.get(&bucket, &key).into(),
            "PUT" if request.header("content-encoding") == Some("aws-chunked") => {
                error("501 Not Implemented", "NotImplemented", "no body in chunks").into()
            }
            "PUT" => {
                let headers = KEPT.iter().map(|name| (*name, request.header(name)));
                let headers = headers.filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
                let object = Object {
                    body: request.body(),
                    headers: headers.collect(),
                };
                self.put(&bucket, &key, object);
                xml("200 OK", "").into()
            }
            "DELETE" => match self.delete(&bucket, &key) {
                Ok(()) => Answer::plain("204 No Content").into(),
                Err(refusal) => refusal.reply(),
            },
            "LIST" => self
                .list(&bucket, &prefix, parameter("continuation-token").as_deref())
                .into(),
            "DELETE-MANY" => self.delete_many(&bucket, &request.body()).into(),
            _ => error(
                "501 Not Implemented",
                "NotImplemented",
                "this stand-in has no such operation",
            )
            .into(),
        }
    }

    pub(super) fn put(&mut self, bucket: &str, key: &str, object: Object) {
        let objects = self.buckets.entry(bucket.to_owned()).or_default();
        objects.insert(key.to_owned(), object);
    }

    fn get(&self, bucket: &str, key: &str) -> Answer {
        match self.buckets.get(bucket).and_then(|objects| objects.get(key)) {
            Some(object) => Answer {
                body: object.body.clone(),
                ..Answer::plain("200 OK")
            },
            None => error("404 Not Found", "NoSuchKey", "The specified key does not exist."),
        }
    }

    fn delete(&mut self, bucket: &str, key: &str) -> Result<(), Refusal> {
        if let Some(refusal) = self.refused.get(key) {
            return Err(*refusal);
        }
        if let Some(objects) = self.buckets.get_mut(bucket) {
            objects.remove(key);
        }
        Ok(())
    }

    /// The token is the last key of the part before.
    fn list(&self, bucket: &str, prefix: &str, token: Option<&str>) -> Answer {
        let from = match token {
            Some(token) => Bound::Excluded(token),
            None => Bound::Included(prefix),
        };
        let objects = self.buckets.get(bucket).into_iter();
        let found: Vec<_> = objects
            .flat_map(|objects| objects.range::<str, _>((from, Bound::Unbounded)))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(MOST_KEYS + 1)
            .collect();
        let is_truncated = found.len() > MOST_KEYS;
        let found = &found[..found.len().min(MOST_KEYS)];
        let mut body = format!("<ListBucketResult><IsTruncated>{is_truncated}</IsTruncated>");
        for (key, object) in found {
            // Writing to a string cannot fail.
            let _ = write!(
                body,
                "<Contents><Key>{}</Key><Size>{}</Size></Contents>",
                escape(key),
                object.body.len()
            );
        }
        if let Some((last, _)) = found.last().filter(|_| is_truncated) {
            let _ = write!(body, "<NextContinuationToken>{}</NextContinuationToken>", escape(last));
        }
        xml("200 OK", &(body + "</ListBucketResult>"))
    }

    fn delete_many(&mut self, bucket: &str, body: &[u8]) -> Answer {
        let text = String::from_utf8_lossy(body);
        let keys = text.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
        let keys: Vec<_> = keys.map(|(key, _)| unescape(key)).collect();
        if keys.is_empty() || keys.len() > MOST_KEYS {
            return error("400 Bad Request", "MalformedXML", "not 1 to 1000 keys");
        }
        let mut body = "<DeleteResult>".to_owned();
        for key in keys {
            if let Err(refusal) = self.delete(bucket, &key) {
                let (_, code, message) = refusal.words();
                let key = escape(&key);
                let _ = write!(
                    body,
                    "<Error><Key>{key}</Key><Code>{code}</Code><Message>{message}</Message></Error>"
                );
            }
        }
        xml("200 OK", &(body + "</DeleteResult>"))
    }
}

impl Refusal {
    /// Status, code and message.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::SlowDown => ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
            Self::InternalError => (
                "500 Internal Server Error",
                "InternalError",
                "It failed. Please try again.",
            ),
            Self::AccessDenied => ("403 Forbidden", "AccessDenied", "Access Denied"),
            Self::NoSuchBucket => ("404 Not Found", "NoSuchBucket", "The specified bucket does not exist"),
            Self::Cut => ("", "", ""),
        }
    }

    fn reply(self) -> Reply {
        match self {
            Self::Cut => Reply::Cut,
            _ => {
                let (status, code, message) = self.words();
                error(status, code, message).into()
            }
        }
    }
}

fn error(status: &'static str, code: &str, message: &str) -> Answer {
    xml(
        status,
        &format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>"),
    )
}

fn xml(status: &'static str, body: &str) -> Answer {
    Answer {
        body: Bytes::copy_from_slice(body.as_bytes()),
        ..Answer::plain(status)
    }
    .header("content-type", "application/xml")
}

const ENTITIES: [(&str, &str); 5] = [
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&quot;", "\""),
    ("&apos;", "'"),
    ("&amp;", "&"),
];

fn escape(text: &str) -> String {
    let escape = |text: String, (entity, c): &(&str, &str)| text.replace(c, entity);
    // The ampersand first: the others bring their own.
    ENTITIES.iter().rev().fold(text.to_owned(), escape)
}

fn unescape(text: &str) -> String {
    let unescape = |text: String, (entity, c): &(&str, &str)| text.replace(entity, c);
    ENTITIES.iter().fold(text.to_owned(), unescape)
}

/// What percent signs stand for.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = match (first, tail) {
            (b'%', [high, low, ..]) => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|code| u8::from_str_radix(code, 16).ok()),
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_the_wire() {
        let key = "a<b>&\"c'&lt;.jpg";
        assert_eq!(unescape(&escape(key)), key);
        assert_eq!(decode("my%20photo%20%281%29%20%C3%A9%2B.jpg"), "my photo (1) é+.jpg");
        assert_eq!(decode("100%"), "100%");
    }
}
