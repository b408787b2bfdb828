//! HTTP/1.1 as the AWS SDKs and the Lambda runtime speak it: whole messages with a length, one connection, one
//! request at a time. Hand-made because the driver's CPU time counts in every benchmark.

use std::fmt::Write as _;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

const MOST_HEADERS: usize = 64;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Head and body.
    pub(crate) raw: Bytes,
    method: Range<usize>,
    target: Range<usize>,
    head: usize,
}

impl Request {
    pub(crate) async fn read(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<Option<Self>> {
        loop {
            if let Some(request) = Self::take(buffer)? {
                return Ok(Some(request));
            }
            if stream.read_buf(buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn take(buffer: &mut BytesMut) -> io::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(head) = parsed.parse(buffer).map_err(invalid)? else {
            return Ok(None);
        };
        let length = body_length(parsed.headers)?.ok_or_else(|| invalid("a request without a length"))?;
        let range = |part: Option<&str>| {
            let part = part.unwrap_or_default();
            let start = part.as_ptr() as usize - buffer.as_ptr() as usize;
            start..start + part.len()
        };
        let (method, target) = (range(parsed.method), range(parsed.path));
        if buffer.len() < head + length {
            buffer.reserve(head + length - buffer.len());
            return Ok(None);
        }
        Ok(Some(Self {
            raw: buffer.split_to(head + length).freeze(),
            method,
            target,
            head,
        }))
    }

    pub(crate) fn method(&self) -> &str {
        self.text(&self.method)
    }

    /// Path and query.
    pub(crate) fn target(&self) -> &str {
        self.text(&self.target)
    }

    /// Looked up in the bytes: most requests are never asked.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        parsed.parse(&self.raw).ok()?;
        let header = parsed
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))?;
        let start = header.value.as_ptr() as usize - self.raw.as_ptr() as usize;
        std::str::from_utf8(&self.raw[start..start + header.value.len()]).ok()
    }

    pub(crate) fn body(&self) -> Bytes {
        self.raw.slice(self.head..)
    }

    fn text(&self, range: &Range<usize>) -> &str {
        std::str::from_utf8(&self.raw[range.clone()]).unwrap_or_default()
    }
}

/// What a service does with a request.
pub(crate) enum Reply {
    Answer(Answer),
    /// The connection ends without a word.
    Cut,
}

pub(crate) struct Answer {
    pub(crate) status: &'static str,
    /// Complete header lines, each with its line end.
    pub(crate) headers: String,
    pub(crate) body: Bytes,
}

impl Answer {
    /// Without a body.
    pub(crate) fn plain(status: &'static str) -> Self {
        Self {
            status,
            headers: String::new(),
            body: Bytes::new(),
        }
    }

    pub(crate) fn json(status: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: "content-type: application/json\r\n".to_owned(),
            body: body.into(),
        }
    }

    /// The shape in which AWS services report errors, both in the header and in the body.
    pub(crate) fn error(status: &'static str, code: &str, message: &str) -> Self {
        let body = serde_json::json!({ "__type": code, "message": message }).to_string();
        Self::json(status, body).header("x-amzn-errortype", code)
    }

    pub(crate) fn header(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        // Writing to a string cannot fail.
        let _ = write!(self.headers, "{name}: {value}\r\n");
        self
    }

    /// As an answer to a method. What answers a HEAD tells the length of a body, and has none.
    pub(crate) fn to_bytes(&self, method: &str) -> BytesMut {
        let head = format!(
            "HTTP/1.1 {}\r\n{}content-length: {}\r\n\r\n",
            self.status,
            self.headers,
            self.body.len()
        );
        let mut bytes = BytesMut::with_capacity(head.len() + self.body.len());
        bytes.extend_from_slice(head.as_bytes());
        if method != "HEAD" {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

pub(crate) trait Service: Clone + Send + Sync + 'static {
    fn reply(&self, request: Request) -> impl Future<Output = Reply> + Send;
}

/// Answers every connection for as long as it is polled; dropped, it cuts them all.
pub(crate) async fn serve(listener: &TcpListener, service: impl Service) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(converse(stream, service.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(mut stream: TcpStream, service: impl Service) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::new();
    while let Some(request) = Request::read(&mut stream, &mut buffer).await? {
        let close = request
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let Reply::Answer(answer) = service.reply(request.clone()).await else {
            break;
        };
        stream.write_all(&answer.to_bytes(request.method())).await?;
        if close {
            break;
        }
    }
    Ok(())
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct Background(JoinHandle<()>);

impl Background {
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }

    /// Serves on a free port of 127.0.0.1.
    pub(crate) async fn serve(service: impl Service) -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        Ok((Self::spawn(async move { serve(&listener, service).await }), address))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads one whole response to a request of that method, as it came.
pub(crate) async fn read_response(method: &str, stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<Bytes> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut parsed = httparse::Response::new(&mut headers);
        if let httparse::Status::Complete(head) = parsed.parse(buffer).map_err(invalid)? {
            let bodiless = method == "HEAD" || matches!(parsed.code, Some(204 | 304));
            let end = match body_length(parsed.headers)? {
                _ if bodiless => Some(head),
                Some(length) => (buffer.len() >= head + length).then_some(head + length),
                None => chunks_end(&buffer[head..])?.map(|length| head + length),
            };
            if let Some(end) = end {
                return Ok(buffer.split_to(end).freeze());
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// `None` = chunked.
fn body_length(headers: &[httparse::Header<'_>]) -> io::Result<Option<usize>> {
    let find = |name: &str| headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    if find("transfer-encoding").is_some() {
        return Ok(None);
    }
    let Some(header) = find("content-length") else {
        return Ok(Some(0));
    };
    let length = std::str::from_utf8(header.value)
        .ok()
        .and_then(|value| value.trim().parse().ok());
    length.map(Some).ok_or_else(|| invalid("content-length"))
}

fn chunks_end(body: &[u8]) -> io::Result<Option<usize>> {
    let mut rest = body;
    while let httparse::Status::Complete((start, size)) =
        httparse::parse_chunk_size(rest).map_err(|_| invalid("chunk"))?
    {
        let end = start + size as usize + 2;
        if rest.len() < end {
            break;
        }
        rest.advance(end);
        if size == 0 {
            return Ok(Some(body.len() - rest.len()));
        }
    }
    Ok(None)
}

fn invalid(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}
