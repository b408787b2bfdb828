//! What a message may ask for.

use serde_json::json;
use testkit::World;
use testkit::people::LedgerRow;

use crate::{JOB, is, report, tick};

#[tokio::test]
async fn a_limit_lets_the_most_urgent_go_first() {
    let world = World::new("a_limit_lets_the_most_urgent").await;
    let mails = world
        .ledger([
            LedgerRow::campaign("m@example.test"),
            LedgerRow::digest("d@example.test"),
            LedgerRow::payout("n@example.test"),
            LedgerRow::essential("e@example.test"),
        ])
        .await;
    let sent = async || {
        let mut order = Vec::new();
        for mail in &mails {
            order.push(world.entry(mail).await.status == "SENT");
        }
        order
    };
    world.deliver(JOB, [json!({ "limit": 1 })]).await;
    assert_eq!(sent().await, [false, false, false, true]);
    world.deliver(JOB, [json!({ "limit": 2 })]).await;
    assert_eq!(sent().await, [false, true, true, true]);
    tick(&world).await;
    assert_eq!(sent().await, [true; 4]);
}

#[tokio::test]
async fn a_list_of_mails_is_sent_and_nothing_else() {
    let world = World::new("a_list_of_mails_is_sent").await;
    let mails = world
        .ledger((0..4).map(|_| LedgerRow::essential("ann@example.test")))
        .await;
    let later = "UPDATE email_messages SET next_attempt_at = now() + interval '1 hour' WHERE id = $1";
    world.execute(later, &[&mails[1]]).await;
    world
        .execute(
            "UPDATE email_messages SET status = 'CANCELLED' WHERE id = $1",
            &[&mails[2]],
        )
        .await;
    let ids = [&*mails[0], &*mails[1], &*mails[2], "never-was"];
    world.deliver(JOB, [json!({ "emailIds": ids })]).await;
    is(&world.entry(&mails[0]).await, "SENT", None, 1);
    is(&world.entry(&mails[1]).await, "PENDING", None, 0);
    is(&world.entry(&mails[2]).await, "CANCELLED", None, 0);
    is(&world.entry(&mails[3]).await, "PENDING", None, 0);
    assert_eq!(report(&world).await["sent"], 1);
}

#[tokio::test]
async fn messages_that_ask_too_much_are_dead_with_a_reason() {
    let world = World::new("messages_that_ask_too_much").await;
    let ids: Vec<_> = (0..101).map(|n| format!("m{n}")).collect();
    let bodies = [
        (json!({ "limit": 0 }), "limit"),
        (json!({ "limit": 5001 }), "limit"),
        (json!({ "limit": "many" }), "string"),
        (json!({ "emailIds": ids }), "emailIds"),
        (json!({ "emailIds": ["a b"] }), "an id is"),
    ];
    world.deliver(JOB, bodies.iter().map(|(body, _)| body.clone())).await;
    let dead = world.dead_letters(JOB);
    assert_eq!(dead.len(), bodies.len());
    for (letter, (body, word)) in dead.iter().zip(&bodies) {
        assert!(
            letter.attributes["reason"].contains(word),
            "{body}: {:?}",
            letter.attributes
        );
    }
}

#[tokio::test]
async fn nothing_due_is_done() {
    let world = World::new("nothing_due_is_done").await;
    tick(&world).await;
    let report = report(&world).await;
    for (name, count) in report.as_object().unwrap() {
        assert_eq!(count, 0, "{name}");
    }
    assert_eq!(world.dead_letters(JOB), []);
}
