//! RDS IAM authentication: the database password is a presigned request, made from the function's own role.
//! <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.Connecting.html>

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use sqlx::postgres::PgConnectOptions;

use crate::{Aws, Error};

/// A token for these connect options, good for 15 minutes.
pub(crate) async fn token(aws: &Aws, options: &PgConnectOptions) -> Result<String, Error> {
    let sdk = aws.of("RDS");
    let unusable = |what: &str| Error::permanent(format!("no {what} to authenticate at the database with"));
    let provider = sdk.credentials_provider().ok_or_else(|| unusable("credentials"))?;
    let region = sdk.region().ok_or_else(|| unusable("region"))?;
    let credentials = provider
        .provide_credentials()
        .await
        .map_err(|error| Error::transient("the credentials could not be loaded").caused_by(error))?;
    presign(credentials, region.as_ref(), options, SystemTime::now())
}

fn presign(
    credentials: Credentials,
    region: &str,
    options: &PgConnectOptions,
    now: SystemTime,
) -> Result<String, Error> {
    let identity = credentials.into();
    let refused = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::permanent("the database token could not be made").caused_by(error)
    };
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(Duration::from_secs(15 * 60));
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("rds-db")
        .time(now)
        .settings(settings)
        .build()
        .map_err(|error| refused(error.into()))?
        .into();
    let host = format!("{}:{}", options.get_host(), options.get_port());
    let url = format!("https://{host}/?Action=connect&DBUser={}", options.get_username());
    let request = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::Bytes(&[]))
        .map_err(|error| refused(error.into()))?;
    let (instructions, _) = sign(request, &params)
        .map_err(|error| refused(error.into()))?
        .into_parts();
    let (_, query) = instructions.into_parts();
    let signed = query.iter().map(|(name, value)| format!("&{name}={}", escape(value)));
    Ok(url.trim_start_matches("https://").to_owned() + &signed.collect::<String>())
}

/// RFC 3986: everything but the unreserved characters.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_presigned_connect_request_without_its_scheme() {
        let options = PgConnectOptions::new_without_pgpass()
            .host("db.example")
            .port(5432)
            .username("jobs");
        let credentials = Credentials::new("AKID", "secret", Some("to/ken".into()), None, "test");
        let token = presign(credentials, "eu-west-1", &options, SystemTime::UNIX_EPOCH).unwrap();
        assert!(
            token.starts_with("db.example:5432/?Action=connect&DBUser=jobs&X-Amz-"),
            "{token}"
        );
        for part in [
            "X-Amz-Expires=900",
            "X-Amz-Credential=AKID%2F19700101%2Feu-west-1%2Frds-db%2Faws4_request",
            "X-Amz-Signature=",
        ] {
            assert!(token.contains(part), "{part}: {token}");
        }
    }
}
