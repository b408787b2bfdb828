//! What recipients ask for (C8).

use serde_json::json;
use testkit::World;
use testkit::people::LedgerRow;

use crate::{JOB, claim, event, listed, sent, suppression, text, unsubscribe};

const ANN: &str = "ann@example.test";

#[tokio::test]
async fn who_has_no_preferences_yet_gets_a_row_with_one_thing_off() {
    let world = World::new("who_has_no_preferences_yet").await;
    let ann = world.user("Ann").await;
    let mail = sent(&world, LedgerRow::payout(ANN).of(&ann)).await;
    world
        .deliver(JOB, [unsubscribe(&claim(&mail, ANN, Some(&ann), "payouts"))])
        .await;
    let row = "SELECT concat_ws(' ', payouts, reports, blog, digest_frequency, global_unsubscribe) FROM email_preferences WHERE user_id = $1";
    assert_eq!(text(&world, row, &ann).await.as_deref(), Some("f t t IMMEDIATE f"));
}

#[tokio::test]
async fn two_wishes_of_one_user_in_one_batch_are_both_fulfilled() {
    let world = World::new("two_wishes_of_one_user").await;
    let (ann, bob) = (world.user("Ann").await, world.user("Bob").await);
    let mail = sent(&world, LedgerRow::payout(ANN).of(&ann)).await;
    let mut messages = claim(&mail, ANN, Some(&ann), "messages");
    messages.digest = Some("message-digest".into());
    let mut mails = claim(&mail, "bob@example.test", Some(&bob), "blog");
    mails.digest = Some("email-digest".into());
    let wishes = [
        claim(&mail, ANN, Some(&ann), "payouts"),
        messages,
        claim(&mail, ANN, Some(&ann), "reports"),
        mails,
    ];
    world.deliver(JOB, wishes.iter().map(unsubscribe)).await;
    let row = "SELECT concat_ws(' ', payouts, reports, messages, message_email_mode, email_frequency) FROM email_preferences WHERE user_id = $1";
    assert_eq!(text(&world, row, &ann).await.as_deref(), Some("f f t OFF IMMEDIATE"));
    assert_eq!(text(&world, row, &bob).await.as_deref(), Some("t t t IMMEDIATE NEVER"));
    assert_eq!(world.count("SELECT count(*) FROM email_unsubscribe_log").await, 4);
}

#[tokio::test]
async fn an_address_without_a_user_gets_no_more_mail_but_essential() {
    let world = World::new("an_address_without_a_user").await;
    let stranger = sent(&world, LedgerRow::campaign("cid@example.test")).await;
    // A user who is gone is no user.
    let gone = sent(&world, LedgerRow::campaign("dan@example.test")).await;
    let wishes = [
        claim(&stranger, "cid@example.test", None, "newsletters"),
        claim(&gone, "dan@example.test", Some("was-here"), "newsletters"),
        // The mail was to somebody else.
        claim(&gone, "eve@example.test", None, "newsletters"),
        // The mail is gone.
        claim("no-such-mail", "fay@example.test", None, "newsletters"),
    ];
    for _ in 0..2 {
        world.deliver(JOB, wishes.iter().map(unsubscribe)).await;
    }
    for address in ["cid@example.test", "dan@example.test"] {
        assert_eq!(
            suppression(&world, address).await,
            listed("UNSUBSCRIBE", "NON_ESSENTIAL", true)
        );
    }
    assert_eq!(world.count("SELECT count(*) FROM email_suppressions").await, 2);
    assert_eq!(
        world
            .count("SELECT count(*) FROM email_unsubscribe_log WHERE action = 'GLOBAL' AND user_id IS NULL")
            .await,
        2
    );
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn a_forged_token_has_no_effect_and_is_no_dead_letter() {
    let world = World::new("a_forged_token").await;
    let ann = world.user("Ann").await;
    let mut forged = unsubscribe(&claim("m", ANN, Some(&ann), "payouts"));
    let token = forged["token"].as_str().expect("a token").to_owned();
    forged["token"] = json!(format!("{}x", &token[..token.len() - 1]));
    world
        .deliver(
            JOB,
            [forged, json!({ "kind": "unsubscribe", "token": "", "source": "admin" })],
        )
        .await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM job_runs WHERE status = 'skipped' AND reason = 'bad_signature'")
            .await,
        2
    );
    assert_eq!(
        world
            .count("SELECT (SELECT count(*) FROM email_preferences) + (SELECT count(*) FROM email_unsubscribe_log)")
            .await,
        0
    );
}

#[tokio::test]
async fn essential_mail_has_nothing_to_switch_off() {
    let world = World::new("essential_mail_has_nothing").await;
    let ann = world.user("Ann").await;
    let mail = sent(&world, LedgerRow::essential(ANN).of(&ann)).await;
    world
        .deliver(JOB, [unsubscribe(&claim(&mail, ANN, Some(&ann), "system"))])
        .await;
    assert_eq!(world.count("SELECT count(*) FROM email_preferences").await, 0);
    assert_eq!(
        world
            .count(r#"SELECT count(*) FROM job_runs WHERE report @> '{"changed": false}'"#)
            .await,
        1
    );
}

#[tokio::test]
async fn who_leaves_by_the_list_of_ses_is_unsubscribed_from_that_mail() {
    let world = World::new("who_leaves_by_the_list_of_ses").await;
    let ann = world.user("Ann").await;
    let mail = sent(&world, LedgerRow::digest(ANN).of(&ann)).await;
    let report = json!({ "timestamp": "2025-10-20T10:00:00Z", "source": "UnsubscribeHeader", "contactList": "list",
                         "newTopicPreferences": { "unsubscribeAll": true } });
    world
        .deliver(JOB, [event(&mail, ANN, "Subscription", "subscription", report)])
        .await;
    let row = "SELECT digest_frequency FROM email_preferences WHERE user_id = $1";
    assert_eq!(text(&world, row, &ann).await.as_deref(), Some("NEVER"));
    assert_eq!(
        world
            .count("SELECT count(*) FROM email_unsubscribe_log WHERE source = 'one_click'")
            .await,
        1
    );
}
