//! The table of step 4: which template tells of a notification.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use testkit::World;
use testkit::people::Notification;

use crate::deliver;

type Examples = BTreeMap<String, BTreeMap<String, Map<String, Value>>>;

/// The variables that each template requires, as producers send them.
fn examples() -> Examples {
    serde_json::from_str(include_str!("../../../../../shared/services/templates/examples.json")).expect("the examples")
}

/// What makes a notification ask for a template, beside the template's variables.
const SPECIAL: &[(&str, &str, &str)] = &[
    ("license-expiry-90-day", "LICENSE", r#"{"days_until_expiry": 90}"#),
    ("license-expiry-60-day", "LICENSE", r#"{"days_until_expiry": 60}"#),
    ("license-expiry-30-day", "LICENSE", r#"{"expiry_days": 30}"#),
    ("license-expiry", "LICENSE", r#"{"days_until_expiry": 15}"#),
    ("payout-confirmation", "PAYOUT", r#"{"status": "COMPLETED"}"#),
    ("payout-failed", "PAYOUT", r#"{"status": "FAILED"}"#),
    ("royalty-statement-ready", "ROYALTY", r#"{"statement_id": "st_9"}"#),
    ("project-invitation", "PROJECT", r#"{"type": "invitation"}"#),
    ("project-match-notification", "PROJECT", r#"{"type": "match"}"#),
    ("project-match-notification", "PROJECT", r#"{"match_type": "skills"}"#),
    ("new-message", "MESSAGE", "{}"),
    ("email-alert", "SYSTEM", r#"{"category": "OPERATIONS"}"#),
];

/// What the notification itself provides, when the metadata does not.
const PROVIDED: &[&str] = &[
    "user_name",
    "creator_name",
    "recipient_name",
    "license_url",
    "project_url",
    "statement_url",
    "thread_url",
    "dashboard_url",
    "support_url",
    "message_preview",
    "days_remaining",
];

fn asking(kind: &'static str, trigger: &str, variables: &Map<String, Value>) -> Notification {
    let mut metadata: Map<String, Value> = serde_json::from_str(trigger).expect("JSON");
    metadata.extend(variables.clone());
    Notification {
        kind,
        metadata: metadata.into(),
        ..Notification::default()
    }
}

/// Delivers each to a user of its own, who must get one mail of this template.
async fn hold(name: &str, cases: Vec<(&str, String, Notification)>) -> World {
    let world = World::new(name).await;
    let mut ids = Vec::new();
    for (n, (_, _, notification)) in cases.iter().enumerate() {
        let user = world.user(&format!("u{n}")).await;
        ids.push(world.notification(&user, notification.clone()).await);
    }
    deliver(&world, &ids).await;
    for (n, (template, when, notification)) in cases.iter().enumerate() {
        let mails = world.mailbox.sent_to(&format!("u{n}@example.test"));
        let templates: Vec<_> = mails.iter().map(|mail| &*mail.tags["template"]).collect();
        assert_eq!(templates, [*template], "{when}: {notification:?}");
    }
    world
}

#[tokio::test]
async fn each_kind_has_its_template_when_all_that_it_needs_is_there() {
    let examples = examples();
    let cases = SPECIAL.iter().map(|(template, kind, trigger)| {
        let notification = asking(kind, trigger, &examples[*template]["required"]);
        (*template, (*trigger).to_owned(), notification)
    });
    let world = hold("each_kind_has_its_template", cases.collect()).await;
    for mail in world.mailbox.mails() {
        let essential = mail.tags["template"] == "email-alert";
        assert_eq!(mail.tags["stream"] == "ESSENTIAL", essential, "{:?}", mail.tags);
    }
}

#[tokio::test]
async fn whatever_is_missing_the_generic_template_tells_it() {
    let examples = examples();
    let mut cases = Vec::new();
    for (template, kind, trigger) in SPECIAL {
        let required = &examples[*template]["required"];
        for missing in required.keys() {
            let mut variables = required.clone();
            variables.remove(missing);
            let trigger = match (*template, &**missing) {
                // Without its alerts it is no alert.
                ("email-alert", _) => r#"{"category": "OPERATIONS"}"#,
                _ => trigger,
            };
            let told_by = match PROVIDED.contains(&&**missing) {
                true => *template,
                false => "notification",
            };
            cases.push((
                told_by,
                format!("{template} without {missing}"),
                asking(kind, trigger, &variables),
            ));
        }
    }
    hold("whatever_is_missing", cases).await;
}

#[tokio::test]
async fn what_asks_for_no_template_gets_the_generic_one() {
    let full =
        |kind: &'static str, template: &str, trigger: &str| asking(kind, trigger, &examples()[template]["required"]);
    let cases = vec![
        full("LICENSE", "license-expiry", "{}"),
        full("LICENSE", "license-expiry", r#"{"days_until_expiry": "90"}"#),
        full("LICENSE", "license-expiry", r#"{"days_until_expiry": 30.5}"#),
        full("PAYOUT", "payout-confirmation", "{}"),
        full("PAYOUT", "payout-confirmation", r#"{"status": "PENDING"}"#),
        full("PAYOUT", "payout-confirmation", r#"{"status": ["COMPLETED"]}"#),
        full("ROYALTY", "royalty-statement-ready", "{}"),
        full("PROJECT", "project-invitation", "{}"),
        full("PROJECT", "project-invitation", r#"{"type": "archived"}"#),
        full("SYSTEM", "email-alert", "{}"),
        full("SYSTEM", "email-alert", r#"{"category": "SECURITY"}"#),
        full("POST_ASSIGNED", "notification", "{}"),
        full("POST_STATUS_CHANGED", "notification", "{}"),
        full("BLOG", "notification", "{}"),
    ];
    let cases = cases
        .into_iter()
        .map(|asked| ("notification", asked.kind.to_owned(), asked));
    hold("what_asks_for_no_template", cases.collect()).await;
}

#[tokio::test]
async fn a_mail_has_all_that_ses_and_its_reader_need() {
    let world = World::new("a_mail_has_all").await;
    let ann = world.user("Ann").await;
    let id = world
        .notification(
            &ann,
            Notification {
                title: "Night Garden <b>licensed</b>".into(),
                message: "By \"Maison Verte\".".into(),
                ..Notification::default()
            },
        )
        .await;
    deliver(&world, [&id]).await;

    let mail = &world.mailbox.mails()[0];
    assert_eq!(mail.subject, "Night Garden <b>licensed</b>");
    assert_eq!(mail.from, "\"YES GODDESS\" <hello@mail.example.test>");
    assert_eq!(mail.reply_to, ["support@example.test"]);
    assert_eq!(mail.configuration_set, "transactional");
    assert!(
        mail.text.contains("Ann") && mail.text.contains("https://app.example.test/somewhere"),
        "{}",
        mail.text
    );
    assert!(
        mail.html.contains("&lt;b&gt;") || mail.html.contains("&#60;b&#62;"),
        "{}",
        mail.html
    );
    assert!(mail.text.contains("1 Example Street") && mail.html.contains("1 Example Street"));
    for (tag, value) in [
        ("stream", "NOTIFICATION"),
        ("category", "license_expiry"),
        ("template", "notification"),
    ] {
        assert_eq!(mail.tags[tag], value);
    }
    let link = mail.headers["List-Unsubscribe"].trim_matches(['<', '>']).to_owned();
    assert!(
        link.starts_with("https://app.example.test/api/email/unsubscribe/"),
        "{link}"
    );
    assert!(mail.text.contains(&link), "{}", mail.text);
    let subject: String = sqlx::query_scalar("SELECT subject FROM email_messages WHERE id = $1")
        .bind(&mail.tags["email_id"])
        .fetch_one(&world.db)
        .await
        .unwrap();
    assert_eq!(subject, mail.subject);
}

#[tokio::test]
async fn who_wants_no_preview_finds_no_words_of_the_message_in_a_mail() {
    let world = World::new("who_wants_no_preview").await;
    let ann = world.user("Ann").await;
    world.prefers(&ann, "show_message_preview = false").await;
    let mut ids = Vec::new();
    for metadata in [
        json!({ "thread_id": "t1", "sender_name": "Grace", "message_preview": "a secret" }),
        // Without a sender the generic template tells it.
        json!({ "thread_id": "t2", "message_preview": "a secret" }),
    ] {
        let message = Notification {
            kind: "MESSAGE",
            message: "a secret".into(),
            metadata,
            ..Notification::default()
        };
        ids.push(world.notification(&ann, message).await);
    }
    deliver(&world, &ids).await;

    let mails = world.mailbox.mails();
    assert_eq!(mails.len(), 2);
    for mail in mails {
        assert!(
            !mail.text.contains("a secret") && !mail.html.contains("a secret"),
            "{}",
            mail.text
        );
    }
}
