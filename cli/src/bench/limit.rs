//! What nothing can beat: the mails alone, posted over as many connections as may be in flight.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Posts `mails` mails to an SES at `address`, `in_flight` at a time.
pub(crate) async fn mails(address: &str, mails: usize, in_flight: usize) -> Result<Duration> {
    let host = address.strip_prefix("http://").context("the mailbox speaks HTTP")?;
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    let hand = || async {
        let mut stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        let mut answer = vec![0; 4096];
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= mails {
                return Ok::<_, anyhow::Error>(());
            }
            stream.write_all(request(host, n).as_bytes()).await?;
            let length = stream.read(&mut answer).await?;
            ensure!(
                answer[..length].starts_with(b"HTTP/1.1 200"),
                "the mailbox refused a mail"
            );
        }
    };
    futures::future::try_join_all((0..in_flight).map(|_| hand())).await?;
    Ok(begun.elapsed())
}

fn request(host: &str, n: usize) -> String {
    let body = serde_json::json!({
        "FromEmailAddress": "no-reply@example.test",
        "Destination": {"ToAddresses": [format!("limit{n}@example.test")]},
        "Content": {"Simple": {"Subject": {"Data": "s"}, "Body": {"Text": {"Data": "t"}, "Html": {"Data": "x".repeat(4000)}}}},
        "EmailTags": [{"Name": "dedupe", "Value": format!("limit-{n}")}],
    })
    .to_string();
    format!(
        "POST /v2/email/outbound-emails HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
