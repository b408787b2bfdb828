//! The pace (C7): the account's numbers, and the lanes by the real clock.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;
use testkit::people::{Entry, LedgerRow};
use testkit::{Answer, World};

use crate::{JOB, is, tick};

fn waits_a_quarter_hour(entry: &Entry, reason: &'static str) {
    is(entry, "PENDING", reason, 0);
    assert!((885.0..=900.0).contains(&entry.due_in), "{entry:?}");
}

#[tokio::test]
async fn bulk_mail_leaves_a_tenth_of_the_day_to_the_rest() {
    for (sent, essential_leaves) in [(89.0, true), (90.0, true), (100.0, false)] {
        let world = World::new("bulk_mail_leaves_a_tenth").await;
        world.mailbox.account(|account| {
            account.max_24_hour_send = 100.0;
            account.sent_last_24_hours = sent;
        });
        let mails = world
            .ledger([
                LedgerRow::essential("ann@example.test"),
                LedgerRow::digest("bob@example.test"),
                LedgerRow::campaign("cid@example.test"),
            ])
            .await;
        tick(&world).await;
        match essential_leaves {
            true => is(&world.entry(&mails[0]).await, "SENT", None, 1),
            false => waits_a_quarter_hour(&world.entry(&mails[0]).await, "daily_quota"),
        }
        for mail in &mails[1..] {
            match sent < 90.0 {
                true => is(&world.entry(mail).await, "SENT", None, 1),
                false => waits_a_quarter_hour(&world.entry(mail).await, "daily_quota"),
            }
        }
    }
}

#[tokio::test]
async fn an_account_that_may_not_send_is_not_asked_to() {
    let world = World::new("an_account_that_may_not_send").await;
    world.mailbox.account(|account| account.sending_enabled = false);
    let mails = world.ledger([LedgerRow::essential("ann@example.test")]).await;
    tick(&world).await;
    waits_a_quarter_hour(&world.entry(&mails[0]).await, "sending_disabled");
    assert_eq!(world.mailbox.calls(), 0);
}

#[tokio::test]
async fn each_throttle_answer_halves_the_bulk_rate_down_to_a_tenth() {
    let world = World::new("each_throttle_answer_halves").await;
    let mail = &world.ledger([LedgerRow::digest("ann@example.test")]).await[0];
    for factor in ["0.5", "0.25", "0.125", "0.1", "0.1"] {
        world.mailbox.fail_next(1, Answer::TooManyRequests);
        tick(&world).await;
        is(&world.entry(mail).await, "PENDING", "throttled", 0);
        let pushed = format!(
            "SELECT count(*) FROM email_sending_state, email_rate_limits WHERE abs(throttle_factor - {factor}) < 0.001
             AND lane = 'bulk' AND next_free_at > now() + interval '0.1 seconds'"
        );
        assert_eq!(world.count(&pushed).await, 1, "{factor}");
        world.advance(Duration::from_secs(3)).await;
    }
    tick(&world).await;
    is(&world.entry(mail).await, "SENT", None, 1);
}

/// Bulk mail goes at 0.8 of SES's rate, all mail at 0.95 of it, and who is urgent need not queue behind who is not.
#[tokio::test]
async fn four_workers_keep_the_pace_and_urgent_mail_passes_them() {
    let world = World::new("four_workers_keep_the_pace").await;
    world.scale(JOB, 5);
    world.mailbox.account(|account| account.max_send_rate = 20.0);
    let bulk = world
        .ledger((0..200).map(|n| LedgerRow::digest(&format!("u{n}@example.test"))))
        .await;
    world.function(JOB).await;

    let begun = Instant::now();
    let workers = join_all(bulk.chunks(50).map(|ids| world.invoke(JOB, json!({ "emailIds": ids }))));
    let urgent = async {
        let mut enqueued = Vec::new();
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        for _ in 0..10 {
            seconds.tick().await;
            let at = Instant::now();
            let id = world.ledger([LedgerRow::essential("ann@example.test")]).await.remove(0);
            world.invoke(JOB, json!({ "emailIds": [&id] })).await.unwrap();
            enqueued.push((id, at));
        }
        enqueued
    };
    let (done, urgent) = futures::future::join(workers, urgent).await;

    assert!(done.iter().all(Result::is_ok), "{done:?}");
    let mut accepted: Vec<_> = world.mailbox.mails().iter().map(|mail| mail.accepted_at).collect();
    accepted.sort();
    assert_eq!((accepted.len(), world.mailbox.doubled()), (210, 0));
    let took = (accepted[209] - begun).as_secs_f64();
    assert!((11.0..=15.0).contains(&took), "{took}");
    // Over three seconds, as a single mail may be late by some hundredths.
    let closest = accepted.windows(61).map(|window| window[60] - window[0]).min().unwrap();
    assert!(closest >= Duration::from_secs(3), "61 mails within {closest:?}");
    for (id, at) in urgent {
        let waited = world.mailbox.tagged("email_id", &id)[0].accepted_at - at;
        assert!(waited <= Duration::from_secs(2), "{waited:?}");
    }
}
