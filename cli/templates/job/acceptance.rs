//! `{{job}}`, the built function on a real database.

use serde_json::json;
use testkit::{World, faults};

const JOB: &str = "{{job}}";

#[tokio::test]
async fn a_message_is_done_once_however_often_it_comes() {
    let world = World::new("{{module}}_is_done").await;

    for _ in 0..2 {
        let run_key = [("runKey".to_owned(), "once".to_owned())].into();
        let queue = testkit::world::queue_name(JOB);
        world.queue.send_with(&queue, json!({{good}}).to_string(), run_key, Default::default());
    }
    world.drain(JOB).await;

    let done = r#"SELECT count(*) FROM job_runs WHERE status = 'done' AND report @> '{{report}}'"#;
    assert_eq!(world.count(done).await, 1);
    assert_eq!(world.count("SELECT count(*) FROM job_runs").await, 1);
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn a_message_that_it_cannot_read_is_dead_with_the_reason() {
    let world = World::new("{{module}}_cannot_read").await;

    world.deliver(JOB, [json!({{bad}})]).await;

    let dead = world.dead_letters(JOB);
    assert_eq!(dead.len(), 1);
    assert!(dead[0].attributes["reason"].contains("integer `7`"), "{:?}", dead[0].attributes);
}

#[tokio::test]
async fn whatever_fails_it_is_done_in_the_end() {
    faults::everywhere("{{module}}_whatever_fails", async |world| {
        world.deliver(JOB, [json!({{good}})]).await;

        assert_eq!(world.count("SELECT count(*) FROM job_runs WHERE status = 'done'").await, 1);
        assert_eq!(world.queued(JOB), []);
        assert_eq!(world.dead_letters(JOB), []);
    })
    .await;
}
