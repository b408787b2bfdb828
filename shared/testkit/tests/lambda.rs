//! The driver of the Runtime API, with a real `lambda_runtime` function.

mod support;

use std::time::Duration;

use serde_json::json;
use support::sample;
use testkit::{Failure, Lambda};

#[tokio::test]
async fn an_event_goes_in_and_an_answer_comes_out() {
    let lambda = Lambda::start(sample().timeout(Duration::from_secs(9))).await.unwrap();

    let answer = lambda.invoke(&json!({ "hello": "world" })).await.unwrap();

    assert_eq!(answer["event"], json!({ "hello": "world" }));
    assert!(answer["deadline"].as_u64() > Some(1_700_000_000_000), "{answer}");
    assert_eq!(lambda.cold_starts().len(), 1);
    assert!(lambda.memory()[0].peak >= lambda.memory()[0].resident);
}

#[tokio::test]
async fn several_instances_work_at_once() {
    let lambda = Lambda::start(sample().instances(2)).await.unwrap();
    let hang = json!({ "Records": [{ "messageId": "1", "body": r#"{"do":"hang"}"# }] });

    let answer = tokio::select! {
        _ = lambda.invoke(&hang) => panic!("a hanging invocation ended"),
        answer = async { lambda.invoke(&json!({})).await } => answer,
    };

    assert!(answer.is_ok());
}

#[tokio::test]
async fn failures_are_told_apart_and_the_next_event_finds_a_new_process() {
    let lambda = Lambda::start(sample().timeout(Duration::from_millis(300)))
        .await
        .unwrap();
    let told = |what: &str| json!({ "Records": [{ "messageId": "1", "body": json!({ "do": what }).to_string() }] });

    let unreadable = json!({ "Records": [{ "body": "{" }] });
    assert!(matches!(
        lambda.invoke(&unreadable).await,
        Err(Failure::Function { .. })
    ));
    assert_eq!(
        lambda.invoke(&told("exit")).await,
        Err(Failure::Exited("exit status: 7".to_owned()))
    );
    assert_eq!(
        lambda.invoke(&told("hang")).await,
        Err(Failure::TimedOut(Duration::from_millis(300)))
    );
    let killed = async {
        while !lambda.logs().contains("it hangs, told to die") {
            tokio::task::yield_now().await;
        }
        lambda.kill().await;
    };
    let hang = json!({ "Records": [{ "messageId": "1", "body": r#"{"do":"hang","say":"it hangs, told to die"}"# }] });
    let (answer, ()) = tokio::join!(lambda.invoke(&hang), killed);
    assert_eq!(answer, Err(Failure::Exited("signal: 9 (SIGKILL)".to_owned())));
    assert!(lambda.invoke(&told("")).await.is_ok());
    assert!(lambda.cold_starts().len() >= 4);
    assert!(lambda.invoke(&told("error")).await.is_ok());
    assert!(lambda.logs().contains("only this message"), "{}", lambda.logs());
}

#[tokio::test]
async fn a_function_that_cannot_start_says_why() {
    let broken = Lambda::start(sample().env("SAMPLE", "broken")).await;
    assert!(matches!(&broken, Err(Failure::Init(_))), "{broken:?}");
    let missing = Lambda::start(testkit::Function::new("no/such/program")).await;
    assert!(
        matches!(&missing, Err(Failure::Init(why)) if why.contains("no/such/program")),
        "{missing:?}"
    );
}
