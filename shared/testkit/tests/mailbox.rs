//! The stand-in for SES, through the official SDK inside a function.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::sample;
use testkit::{Answer, Lambda, Mailbox};

async fn with_function() -> (Mailbox, Lambda) {
    let mailbox = Mailbox::start().await.expect("a port");
    let function = sample()
        .env("AWS_ENDPOINT_URL_SESV2", mailbox.address())
        .timeout(Duration::from_secs(2));
    (mailbox, Lambda::start(function).await.expect("the sample"))
}

/// How many of the mails the function thinks have failed.
async fn mail(lambda: &Lambda, addresses: &[&str]) -> usize {
    let record = |to: &&str| json!({ "messageId": to, "body": json!({ "mail": to }).to_string() });
    let event = json!({ "Records": addresses.iter().map(record).collect::<Vec<Value>>() });
    let answer = lambda.invoke(&event).await.expect("an answer");
    answer["batchItemFailures"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn an_accepted_mail_is_kept_whole() {
    let (mailbox, lambda) = with_function().await;

    assert_eq!(mail(&lambda, &["ann@example.test"]).await, 0);

    let [mail] = &mailbox.sent_to("ann@example.test")[..] else {
        panic!("{:?}", mailbox.mails())
    };
    assert_eq!((&*mail.from, &*mail.subject), ("Sample <sample@example.test>", "Hello"));
    assert_eq!((&*mail.text, &*mail.html), ("plain \"text\"", "<p>é</p>"));
    assert_eq!(
        (&*mail.reply_to[0], &*mail.configuration_set),
        ("reply@example.test", "transactional")
    );
    assert_eq!(mail.headers["List-Unsubscribe"], "<https://x>");
    assert_eq!(mailbox.tagged("email_id", "ann_example.test").len(), 1);
}

#[tokio::test]
async fn answers_follow_the_script() {
    let (mailbox, lambda) = with_function().await;
    mailbox.fail_next(2, Answer::ServiceUnavailable);
    mailbox.fail_to("bad@example.test", Answer::MessageRejected);

    assert_eq!(
        mail(
            &lambda,
            &["a@example.test", "b@example.test", "c@example.test", "bad@example.test"]
        )
        .await,
        3
    );

    assert!(lambda.logs().contains("MessageRejected"), "{}", lambda.logs());
    assert_eq!((mailbox.accepted(), mailbox.calls()), (1, 4));
    mailbox.recover();
    mailbox.fail_every(2, Answer::TooManyRequests);
    assert_eq!(
        mail(
            &lambda,
            &["a@example.test", "b@example.test", "c@example.test", "d@example.test"]
        )
        .await,
        2
    );
}

#[tokio::test]
async fn a_mail_may_be_accepted_without_an_answer() {
    let (mailbox, lambda) = with_function().await;
    mailbox.fail_next(1, Answer::AcceptedButNoAnswer);
    assert_eq!(mail(&lambda, &["a@example.test"]).await, 1);
    assert_eq!(mailbox.accepted(), 1);
    mailbox.fail_next(1, Answer::Cut);
    assert_eq!(mail(&lambda, &["a@example.test"]).await, 1);
    assert_eq!((mailbox.accepted(), mailbox.doubled()), (1, 0));
    assert_eq!(mail(&lambda, &["a@example.test"]).await, 0);
    assert_eq!((mailbox.accepted(), mailbox.doubled()), (2, 1));
}

#[tokio::test]
async fn rate_and_latency_are_kept() {
    let (mailbox, lambda) = with_function().await;
    mailbox.count_only();
    mailbox.limit_rate(0.001, 2.0);
    mailbox.latency(Duration::from_millis(20));
    let started = Instant::now();
    assert_eq!(
        mail(&lambda, &["a@example.test", "b@example.test", "c@example.test"]).await,
        1
    );
    assert!(started.elapsed() >= Duration::from_millis(60));
    assert_eq!((mailbox.accepted(), mailbox.mails().len()), (2, 0));
    assert_eq!(mailbox.counts()["a_example.test"], 1);
}
