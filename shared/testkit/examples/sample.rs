//! A function for the testkit's own tests: does what each message of a batch asks for.

use std::process;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_sesv2::types::{Body, Content, Destination, EmailContent, Message, MessageTag};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

struct World {
    ses: aws_sdk_sesv2::Client,
    database: Option<PgPool>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    if std::env::var("SAMPLE").is_ok_and(|sample| sample == "broken") {
        return Err("it is broken".into());
    }
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let ses = aws_sdk_sesv2::config::Builder::from(&config).retry_config(aws_config::retry::RetryConfig::disabled());
    let database = match std::env::var("DATABASE_URL") {
        Ok(url) => Some(PgPoolOptions::new().max_connections(1).connect_lazy(&url)?),
        Err(_) => None,
    };
    let world = World {
        ses: aws_sdk_sesv2::Client::from_conf(ses.build()),
        database,
    };
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Value>| world.handle(event).await)).await
}

impl World {
    async fn handle(&self, event: LambdaEvent<Value>) -> Result<Value, Error> {
        let (event, context) = event.into_parts();
        let Some(records) = event["Records"].as_array() else {
            return Ok(json!({ "event": event, "deadline": context.deadline, "request": context.request_id }));
        };
        let mut failures = Vec::new();
        for record in records {
            let body: Value = serde_json::from_str(record["body"].as_str().unwrap_or_default())?;
            if let Err(error) = self.perform(&body).await {
                println!("{} {error:?}", record["messageId"]);
                failures.push(json!({ "itemIdentifier": record["messageId"] }));
            }
            if let Some(answer) = body.get("answer") {
                return Ok(answer.clone());
            }
        }
        Ok(json!({ "batchItemFailures": failures }))
    }

    async fn perform(&self, message: &Value) -> Result<(), Error> {
        if let Some(words) = message["say"].as_str() {
            println!("{words}");
        }
        if let (Some(key), Some(database)) = (message["row"].as_str(), &self.database) {
            let mut tx = database.begin().await?;
            sqlx::query("INSERT INTO effects (key) VALUES ($1) ON CONFLICT DO NOTHING")
                .bind(key)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
        }
        if let Some(name) = message["mail"].as_str() {
            self.mail(name).await?;
        }
        match message["do"].as_str() {
            Some("fail") => Err("it was told to fail".into()),
            Some("exit") => process::exit(7),
            Some("hang") => std::future::pending().await,
            Some("rest") => {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(())
            }
            Some("error") => Err(Error::from("only this message")),
            _ => Ok(()),
        }
    }

    async fn mail(&self, address: &str) -> Result<(), Error> {
        let part = |text: &str| Content::builder().data(text).build();
        let body = Body::builder()
            .text(part("plain \"text\"")?)
            .html(part("<p>é</p>")?)
            .build();
        let header = aws_sdk_sesv2::types::MessageHeader::builder()
            .name("List-Unsubscribe")
            .value("<https://x>")
            .build()?;
        let message = Message::builder()
            .subject(part("Hello")?)
            .body(body)
            .headers(header)
            .build();
        self.ses
            .send_email()
            .from_email_address("Sample <sample@example.test>")
            .reply_to_addresses("reply@example.test")
            .configuration_set_name("transactional")
            .destination(Destination::builder().to_addresses(address).build())
            .content(EmailContent::builder().simple(message).build())
            .email_tags(
                MessageTag::builder()
                    .name("email_id")
                    .value(address.replace('@', "_"))
                    .build()?,
            )
            .send()
            .await?;
        Ok(())
    }
}
