//! Signed AWS calls without an SDK crate, for the few calls that are not worth compiling one.

use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail};
use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::default_connector;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::Request;
use aws_smithy_types::byte_stream::ByteStream;
use serde_json::Value;

/// AWS services by their plain HTTP protocols.
pub(crate) struct Aws {
    config: SdkConfig,
    connector: SharedHttpConnector,
}

impl Aws {
    pub(crate) fn new(config: SdkConfig) -> Result<Self> {
        let connector =
            default_connector(&HttpConnectorSettings::default(), None).context("this build has no TLS provider")?;
        Ok(Self { config, connector })
    }

    /// A call of a service with the JSON protocol; `action` is e.g. `Logs_20140328.FilterLogEvents`.
    pub(crate) async fn call(&self, service: &str, action: &str, input: &Value) -> Result<Value> {
        let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", action)];
        self.send(service, "POST", "/", &headers, input.to_string()).await
    }

    /// A reading call of a service with the REST protocol.
    pub(crate) async fn get(&self, service: &str, path: &str) -> Result<Value> {
        self.send(service, "GET", path, &[], String::new()).await
    }

    async fn send(
        &self,
        service: &str,
        method: &str,
        path: &str,
        headers: &[(&'static str, &str)],
        body: String,
    ) -> Result<Value> {
        let region = self.config.region().context("AWS_REGION is not set")?.as_ref();
        let endpoint = match self.config.endpoint_url() {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("https://{service}.{region}.amazonaws.com"),
        };
        let uri = format!("{endpoint}{path}");
        let provider = self
            .config
            .credentials_provider()
            .context("there are no AWS credentials")?;
        let identity = provider
            .provide_credentials()
            .await
            .context("could not get AWS credentials")?
            .into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(service)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()?
            .into();
        let signable = SignableRequest::new(
            method,
            &uri,
            headers.iter().map(|&(name, value)| (name, value)),
            SignableBody::Bytes(body.as_bytes()),
        )?;
        let (signature, _) = sign(signable, &parameters)?.into_parts();

        let mut request = Request::new(body.into());
        request.set_method(method)?;
        request.set_uri(uri)?;
        for &(name, value) in headers {
            request.headers_mut().insert(name, value.to_owned());
        }
        for (name, value) in signature
            .into_parts()
            .0
            .iter()
            .map(|header| (header.name(), header.value().to_owned()))
        {
            request.headers_mut().insert(name, value);
        }
        let unreachable = |error: ConnectorError| anyhow!("could not reach {endpoint}: {}", error.into_source());
        let response = self.connector.call(request).await.map_err(unreachable)?;
        let status = response.status();
        let body = ByteStream::new(response.into_body()).collect().await?.into_bytes();
        if !status.is_success() {
            bail!(
                "{service} answered {}: {}",
                status.as_u16(),
                String::from_utf8_lossy(&body)
            );
        }
        Ok(serde_json::from_slice(&body)?)
    }
}
