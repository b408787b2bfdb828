use std::time::Duration;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;

use crate::Error;

/// What AWS clients are made of. Clients are made when first used: a TLS stack costs several milliseconds and megabytes, and many
/// invocations need none.
#[derive(Clone, Debug)]
pub struct Aws {
    config: SdkConfig,
}

impl Aws {
    /// Region, credentials and endpoints from the environment alone, as Lambda gives them: no profile, no metadata service.
    ///
    /// Retries are the runtime's and the ledger's business, so the SDK makes one attempt: a retried time-out may be a second
    /// e-mail.
    pub fn from_env() -> Result<Self, Error> {
        let region = std::env::var("AWS_REGION").map_err(|_| Error::permanent("the environment has no AWS_REGION"))?;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .read_timeout(Duration::from_secs(10))
            .build();
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region))
            .credentials_provider(SharedCredentialsProvider::new(
                EnvironmentVariableCredentialsProvider::new(),
            ))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .build();
        Ok(Self { config })
    }

    /// The configuration for one service, with `AWS_ENDPOINT_URL_<service>` or `AWS_ENDPOINT_URL` if set.
    pub(crate) fn of(&self, service: &str) -> SdkConfig {
        let endpoint = |name: &str| std::env::var(name).ok().filter(|url| !url.is_empty());
        let endpoint = endpoint(&format!("AWS_ENDPOINT_URL_{service}")).or_else(|| endpoint("AWS_ENDPOINT_URL"));
        let mut config = self.config.clone().into_builder();
        if endpoint.is_some() {
            config.set_endpoint_url(endpoint);
        }
        config.build()
    }

    /// Everything at one address.
    #[cfg(test)]
    pub(crate) fn at(endpoint: &str) -> Self {
        use aws_credential_types::Credentials;

        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                "id", "secret", None, None, "test",
            )))
            .retry_config(RetryConfig::disabled())
            .endpoint_url(endpoint)
            .build();
        Self { config }
    }
}
