//! The rules of SQS, through the official SDK and through a function.

mod support;

use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, MessageAttributeValue, QueueAttributeName, SendMessageBatchRequestEntry,
};
use serde_json::{Value, json};
use support::sample;
use testkit::queue::{Batches, Clock, Queue, Redrive, Rules};
use testkit::{Failure, Lambda};

const BATCHES: Batches = Batches {
    size: 10,
    concurrency: 2,
};

async fn with_client() -> (Queue, Client) {
    let queue = Queue::start(Clock::Virtual).await.expect("a port");
    let credentials = SharedCredentialsProvider::new(Credentials::new("test", "test", None, None, "test"));
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(credentials)
        .endpoint_url(queue.address());
    let client = Client::from_conf(config.build());
    (queue, client)
}

#[tokio::test]
async fn a_message_is_hidden_while_received_and_gone_when_deleted() {
    let (queue, sqs) = with_client().await;
    let url = sqs
        .get_queue_url()
        .queue_name("orders")
        .send()
        .await
        .unwrap()
        .queue_url
        .unwrap();
    assert_eq!(url, queue.url("orders"));
    let color = MessageAttributeValue::builder()
        .data_type("String")
        .string_value("red")
        .build()
        .unwrap();
    let sent = sqs
        .send_message()
        .queue_url(&url)
        .message_body("hi")
        .message_attributes("color", color)
        .send()
        .await
        .unwrap();

    let receive = || async {
        let request = sqs
            .receive_message()
            .queue_url(&url)
            .max_number_of_messages(10)
            .message_attribute_names("All");
        request.send().await.unwrap().messages.unwrap_or_default()
    };
    let first = receive().await.remove(0);

    assert_eq!((first.body(), first.message_id()), (Some("hi"), sent.message_id()));
    assert_eq!(first.message_attributes().unwrap()["color"].string_value(), Some("red"));
    assert!(receive().await.is_empty());
    queue.advance(Duration::from_secs(30));
    let second = receive().await.remove(0);
    let delete = |handle: Option<&str>| {
        sqs.delete_message()
            .queue_url(&url)
            .receipt_handle(handle.unwrap())
            .send()
    };
    delete(first.receipt_handle()).await.unwrap();
    assert_eq!(queue.messages("orders").len(), 1, "an old receipt deletes nothing");
    delete(second.receipt_handle()).await.unwrap();
    assert_eq!(queue.messages("orders"), []);
}

#[tokio::test]
async fn visibility_and_delay_follow_the_clock() {
    let (queue, sqs) = with_client().await;
    let url = queue.url("orders");
    sqs.send_message()
        .queue_url(&url)
        .message_body("later")
        .delay_seconds(60)
        .send()
        .await
        .unwrap();
    assert_eq!(queue.next_due("orders"), Some(Duration::from_secs(60)));
    queue.advance(Duration::from_secs(60));

    let messages = sqs
        .receive_message()
        .queue_url(&url)
        .send()
        .await
        .unwrap()
        .messages
        .unwrap();
    let handle = messages[0].receipt_handle().unwrap();
    for seconds in [5, 5] {
        let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
            .id("a")
            .receipt_handle(handle);
        let entry = entry.visibility_timeout(seconds).build().unwrap();
        let changed = sqs
            .change_message_visibility_batch()
            .queue_url(&url)
            .entries(entry)
            .send()
            .await
            .unwrap();
        assert_eq!(changed.successful().len(), 1);
    }
    let wanted = [QueueAttributeName::All];
    let attributes = sqs
        .get_queue_attributes()
        .queue_url(&url)
        .set_attribute_names(Some(wanted.into()))
        .send()
        .await;
    let attributes = attributes.unwrap().attributes.unwrap();
    assert_eq!(
        attributes[&QueueAttributeName::ApproximateNumberOfMessagesNotVisible],
        "1"
    );

    queue.advance(Duration::from_secs(5));

    assert_eq!(queue.next_due("orders"), Some(Duration::ZERO));
    let late = sqs
        .change_message_visibility()
        .queue_url(&url)
        .receipt_handle(handle)
        .visibility_timeout(9)
        .send()
        .await;
    assert!(late.unwrap_err().into_service_error().is_message_not_inflight());
    assert_eq!(
        sqs.receive_message()
            .queue_url(&url)
            .send()
            .await
            .unwrap()
            .messages()
            .len(),
        1
    );
    assert_eq!(
        sqs.receive_message()
            .queue_url(&url)
            .send()
            .await
            .unwrap()
            .messages()
            .len(),
        0
    );
}

#[tokio::test]
async fn what_sqs_refuses_is_refused() {
    let (queue, sqs) = with_client().await;
    let url = queue.url("orders");
    let entry = |id: usize, body: &str| {
        SendMessageBatchRequestEntry::builder()
            .id(id.to_string())
            .message_body(body)
            .build()
            .unwrap()
    };
    let batch = |entries: Vec<_>| {
        sqs.send_message_batch()
            .queue_url(&url)
            .set_entries(Some(entries))
            .send()
    };

    assert!(
        batch((0..11).map(|id| entry(id, "x")).collect())
            .await
            .unwrap_err()
            .into_service_error()
            .is_too_many_entries_in_batch_request()
    );
    assert!(
        batch(vec![entry(1, "x"), entry(1, "y")])
            .await
            .unwrap_err()
            .into_service_error()
            .is_batch_entry_ids_not_distinct()
    );
    let half = "x".repeat(600_000);
    assert!(
        batch(vec![entry(1, &half), entry(2, &half)])
            .await
            .unwrap_err()
            .into_service_error()
            .is_batch_request_too_long()
    );
    let mixed = batch(vec![entry(1, "good"), entry(2, "bad \u{1}")]).await.unwrap();
    assert_eq!(
        (mixed.successful().len(), mixed.failed()[0].code()),
        (1, "InvalidMessageContents")
    );
    assert_eq!(queue.messages("orders").len(), 1);
}

#[tokio::test]
async fn one_failure_of_a_batch_comes_back_alone_until_it_is_dead() {
    let (queue, lambda) = fed().await;
    for index in 0..12 {
        let told = if index == 3 { json!({ "do": "fail" }) } else { json!({}) };
        queue.send("orders", told.to_string());
    }

    let drained = queue.drain("orders", &lambda, BATCHES).await;

    assert_eq!((drained.invocations, drained.deliveries, drained.returned), (4, 14, 3));
    assert_eq!(drained.waited, Duration::from_secs(3 * 60));
    let dead = queue.messages("orders-dlq");
    assert_eq!(
        dead.iter().map(|message| message.json::<Value>()).collect::<Vec<_>>(),
        [json!({ "do": "fail" })]
    );
}

#[tokio::test]
async fn a_whole_batch_returns_when_the_process_dies_or_the_answer_is_malformed() {
    for (told, failures) in [
        (json!({ "do": "exit" }), 3),
        (
            json!({ "answer": { "batchItemFailures": [{ "itemIdentifier": "unknown" }] } }),
            0,
        ),
        (
            json!({ "answer": { "batchItemFailures": [{ "itemIdentifier": null }] } }),
            0,
        ),
        (json!({ "answer": { "batchItemFailures": [{ "id": "x" }] } }), 0),
        (json!({ "answer": "done" }), 0),
    ] {
        let (queue, lambda) = fed().await;
        queue.send("orders", told.to_string());
        queue.send("orders", "{}");
        let drained = queue.drain("orders", &lambda, BATCHES).await;
        assert_eq!(queue.messages("orders-dlq").len(), 2, "{told}");
        assert_eq!(
            drained.failures,
            vec![Failure::Exited("exit status: 7".to_owned()); failures]
        );
    }
    for told in [
        json!({ "answer": null }),
        json!({ "answer": {} }),
        json!({ "answer": { "batchItemFailures": null } }),
    ] {
        let (queue, lambda) = fed().await;
        queue.send("orders", told.to_string());
        assert_eq!(queue.drain("orders", &lambda, BATCHES).await.deliveries, 1, "{told}");
    }
}

#[tokio::test]
async fn duplicates_and_another_order_come_when_asked_for() {
    let (queue, lambda) = fed().await;
    queue.misbehave(0.5, true);
    for _ in 0..100 {
        queue.send("orders", "{}");
    }

    let drained = queue.drain("orders", &lambda, BATCHES).await;

    assert!((120..=180).contains(&drained.deliveries), "{drained:?}");
    assert_eq!(queue.messages("orders"), []);
    assert_eq!(queue.messages("orders-dlq"), []);
}

#[tokio::test]
async fn nothing_is_lost_when_every_process_is_killed_again_and_again() {
    let queue = Queue::start(Clock::Real).await.unwrap();
    queue.configure(
        "orders",
        Rules {
            visibility: Duration::from_millis(200),
            redrive: None,
        },
    );
    let lambda = Lambda::start(sample().instances(2)).await.unwrap();
    for _ in 0..400 {
        queue.send("orders", r#"{"do":"rest"}"#);
    }
    let kill = async {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(40)).await;
            lambda.kill().await;
        }
    };

    let (drained, ()) = tokio::join!(queue.drain("orders", &lambda, BATCHES), kill);

    assert_eq!(queue.messages("orders"), []);
    assert!(!drained.failures.is_empty() && drained.deliveries > 400, "{drained:?}");
}

async fn fed() -> (Queue, Lambda) {
    let queue = Queue::start(Clock::Virtual).await.expect("a port");
    let redrive = Redrive {
        max_receives: 3,
        dead_letters: "orders-dlq".to_owned(),
    };
    queue.configure(
        "orders",
        Rules {
            visibility: Duration::from_secs(60),
            redrive: Some(redrive),
        },
    );
    (queue, Lambda::start(sample()).await.expect("the sample"))
}
