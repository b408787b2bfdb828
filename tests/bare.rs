//! A function that has nothing but `lambda_runtime`: what a cold start is measured against. Never deployed.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let answer = async |_: LambdaEvent<Value>| Ok::<_, Error>(json!({"batchItemFailures": []}));
    lambda_runtime::run(service_fn(answer)).await
}
