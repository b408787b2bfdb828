use chrono::NaiveDate;
use serde_json::{Value, json};
use testkit::World;

use crate::{JOB, ago, at};

async fn post(world: &World, id: &str) {
    let author = world.user(&format!("Author of {id}")).await;
    world
        .execute(
            "INSERT INTO posts (id, title, slug, content, author_id) VALUES ($1, $1, $1, 'text', $2)",
            &[id, &author],
        )
        .await;
}

fn event(day: NaiveDate, time: &str, kind: &str, session: &str, props: Value) -> Value {
    json!({"occurred_at": at(day, time), "event_type": kind, "session_id": session, "post_id": "pst_1", "props": props})
}

async fn computed(world: &World, day: NaiveDate) -> Value {
    world.deliver(JOB, [json!({"action": "post_daily", "date": day})]).await;
    world
        .rows("SELECT * FROM post_daily_metrics ORDER BY post_id")
        .await
        .remove(0)
}

#[tokio::test]
async fn of_two_short_visits_the_one_that_clicked_is_no_bounce() {
    let world = World::new("bounce").await;
    post(&world, "pst_1").await;
    let day = ago(1);
    world
        .events(json!([
            event(day, "12:00:00", "post_viewed", "s1", json!({})),
            event(
                day,
                "12:00:20",
                "post_engagement_time",
                "s1",
                json!({"engagementTimeSeconds": 20})
            ),
            event(day, "13:00:00", "post_viewed", "s2", json!({})),
            event(
                day,
                "13:00:20",
                "post_engagement_time",
                "s2",
                json!({"engagementTimeSeconds": 20})
            ),
            event(day, "13:00:21", "post_cta_clicked", "s2", json!({"ctaType": "license"})),
        ]))
        .await;
    let row = computed(&world, day).await;
    assert_eq!(
        (&row["bounce_rate"], &row["conversion_rate"]),
        (&json!(50.00), &json!(50.00))
    );
    assert_eq!(
        (
            &row["views"],
            &row["unique_visitors"],
            &row["avg_engagement_time_seconds"]
        ),
        (&json!(2), &json!(2), &json!(20.00))
    );
    assert_eq!(computed(&world, day).await, row, "a second time changes nothing");
}

#[tokio::test]
async fn engagement_is_capped_a_session_and_scrolling_is_the_mean_of_the_deepest() {
    let world = World::new("engagement").await;
    post(&world, "pst_1").await;
    let day = ago(1);
    world
        .events(json!([
            event(day, "12:00:00", "post_viewed", "s1", json!({})),
            event(
                day,
                "12:20:00",
                "post_engagement_time",
                "s1",
                json!({"engagementTimeSeconds": 1200})
            ),
            event(
                day,
                "12:40:00",
                "post_engagement_time",
                "s1",
                json!({"engagementTimeSeconds": 1200})
            ),
            event(
                day,
                "12:00:01",
                "post_scroll_depth",
                "s1",
                json!({"scrollDepthPercentage": 40})
            ),
            event(
                day,
                "12:00:02",
                "post_scroll_depth",
                "s1",
                json!({"depthPercentage": "250"})
            ),
            event(day, "13:00:00", "post_viewed", "s2", json!({})),
            event(
                day,
                "13:00:01",
                "post_scroll_depth",
                "s2",
                json!({"scrollDepthPercentage": 25.5})
            ),
            event(day, "13:00:02", "post_email_capture", "s2", json!({})),
            event(day, "13:00:03", "post_email_capture", "s2", json!({})),
            event(
                day,
                "13:00:04",
                "post_social_share_clicked",
                "s2",
                json!({"platform": "pinterest"})
            ),
        ]))
        .await;
    let row = computed(&world, day).await;
    assert_eq!(
        (
            &row["total_engagement_time_seconds"],
            &row["avg_engagement_time_seconds"]
        ),
        (&json!(1800), &json!(900.00))
    );
    assert_eq!(row["avg_scroll_depth_percentage"], json!(62.75));
    assert_eq!(
        (&row["email_captures"], &row["email_capture_rate"]),
        (&json!(2), &json!(100.00))
    );
    assert_eq!(row["social_share_breakdown"], json!({"pinterest": 1}));
    assert_eq!(
        (&row["bounce_rate"], &row["conversion_rate"]),
        (&json!(0.00), &json!(0.00))
    );
}

#[tokio::test]
async fn a_view_comes_from_the_first_source_that_fits() {
    let world = World::new("sources").await;
    post(&world, "pst_1").await;
    let day = ago(1);
    let visits = [
        json!({"utmMedium": "Email-Newsletter", "referrer": "https://www.facebook.com/"}),
        json!({"utmMedium": "social"}),
        json!({"referrer": "https://l.instagram.com/?u=x"}),
        json!({"utmSource": "X"}),
        json!({"utmMedium": "organic", "referrer": "https://blog.example.test/"}),
        json!({"referrer": "https://www.google.co.uk/search?q=y"}),
        json!({"referrer": "https://WWW.Blog.example.test:8080/post"}),
        json!({"utmMedium": "cpc", "referrer": "https://www.google.com/"}),
        json!({"referrer": "nonsense"}),
        json!({}),
    ];
    let events = visits.iter().enumerate();
    let events: Vec<_> = events
        .map(|(n, props)| event(day, "12:00:00", "post_viewed", &format!("s{n}"), props.clone()))
        .collect();
    world.events(json!(events)).await;
    let row = computed(&world, day).await;
    let expected = json!({"email": 1, "social": 3, "organic": 2, "referral": 1, "direct": 3});
    assert_eq!(row["source_breakdown"], expected);
    assert_eq!(row["top_referrers"][0], json!({"host": "direct", "views": 4}));
    let hosts: Vec<_> = row["top_referrers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|top| top["host"].as_str().unwrap())
        .collect();
    assert!(
        hosts.contains(&"blog.example.test") && hosts.contains(&"google.co.uk"),
        "{hosts:?}"
    );
    assert_eq!(row["device_breakdown"], json!({"desktop": 10}));
}

#[tokio::test]
async fn the_history_of_a_deleted_post_stays_as_it_was() {
    let world = World::new("deleted_post").await;
    post(&world, "pst_1").await;
    let day = ago(1);
    world
        .events(json!([event(day, "12:00:00", "post_viewed", "s1", json!({}))]))
        .await;
    let row = computed(&world, day).await;
    world.execute("UPDATE posts SET deleted_at = now()", &[]).await;
    world
        .events(json!([event(day, "14:00:00", "post_viewed", "s2", json!({}))]))
        .await;
    assert_eq!(computed(&world, day).await, row);
}
