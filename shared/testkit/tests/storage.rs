//! The stand-in for S3, through the official SDK. What jobs ask of it is tested by the adapter, in `services`.

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::primitives::ByteStream;
use testkit::Storage;
use testkit::storage::Refusal;

async fn with_client() -> (Storage, Client) {
    let storage = Storage::start().await.expect("a port");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .force_path_style(true)
        .endpoint_url(storage.address());
    (storage, Client::from_conf(config.build()))
}

#[tokio::test]
async fn what_is_put_is_there_as_it_was() {
    let (storage, client) = with_client().await;
    let (bucket, key) = ("assets", "uploads/u1/a b&c.jpg");

    let put = client.put_object().bucket(bucket).key(key);
    put.body(ByteStream::from_static(b"the bytes")).send().await.unwrap();

    assert_eq!(storage.keys(bucket), [key]);
    let got = client.get_object().bucket(bucket).key(key).send().await.unwrap();
    assert_eq!(&got.body.collect().await.unwrap().into_bytes()[..], b"the bytes");
    let absent = client.get_object().bucket(bucket).key("else").send().await.unwrap_err();
    assert!(absent.into_service_error().is_no_such_key());
    assert_eq!(
        storage.calls(),
        [
            "PUT assets/uploads/u1/a b&c.jpg",
            "GET assets/uploads/u1/a b&c.jpg",
            "GET assets/else"
        ]
    );
}

#[tokio::test]
async fn what_was_arranged_is_refused_until_it_is_forgotten() {
    let (storage, client) = with_client().await;
    storage.put("assets", "a", "x");
    storage.refuse("a", Refusal::AccessDenied);
    storage.fail_next(1, Refusal::SlowDown);

    let delete = || client.delete_object().bucket("assets").key("a").send();
    for status in [503, 403] {
        let error = delete().await.unwrap_err();
        assert_eq!(
            error.raw_response().map(|response| response.status().as_u16()),
            Some(status)
        );
    }
    assert_eq!(storage.keys("assets"), ["a"]);

    storage.fail_next(7, Refusal::InternalError);
    storage.recover();
    delete().await.unwrap();
    assert_eq!(storage.keys("assets"), [""; 0]);
}
