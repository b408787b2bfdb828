use super::Signer;
use crate::Error;

/// How this deployment sends mail; from the environment.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `From`, name and address.
    pub from: String,
    /// The domain of `From`.
    pub sender_domain: String,
    /// `Reply-To`, when set.
    pub reply_to: Option<String>,
    /// Configuration set of ESSENTIAL and NOTIFICATION: no tracking.
    pub transactional_set: Option<String>,
    /// Configuration set of DIGEST and MARKETING: opens and clicks are tracked.
    pub bulk_set: Option<String>,
    /// The same, for users who do not want to be tracked.
    pub untracked_set: Option<String>,
    /// The platform's own address, for links.
    pub app_url: String,
    /// Where help is.
    pub support_url: String,
    /// In the footer, by law.
    pub postal_address: String,
    /// Signs unsubscribe links.
    pub signer: Signer,
    /// The most calls to SES at a time, whatever the rate allows.
    pub in_flight: usize,
}

impl Settings {
    /// Reads `EMAIL_*`, `SES_CONFIGURATION_SET_*`, `APP_URL`, `SUPPORT_URL`, `UNSUBSCRIBE_KEY`.
    pub fn from_env() -> Result<Self, Error> {
        let optional = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let required =
            |name: &str| optional(name).ok_or_else(|| Error::permanent(format!("the environment has no {name}")));
        let address = required("EMAIL_FROM_ADDRESS")?;
        let name = optional("EMAIL_FROM_NAME").unwrap_or_else(|| "YES GODDESS".into());
        let app_url = required("APP_URL")?.trim_end_matches('/').to_owned();
        let in_flight = match optional("EMAIL_MAX_IN_FLIGHT") {
            Some(text) => text
                .parse()
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| Error::permanent("EMAIL_MAX_IN_FLIGHT is not a positive number"))?,
            None => 64,
        };
        Ok(Self {
            sender_domain: address.rsplit_once('@').map_or("", |(_, domain)| domain).to_owned(),
            from: format!("\"{}\" <{address}>", name.replace(['"', '\\'], "")),
            reply_to: optional("EMAIL_REPLY_TO"),
            transactional_set: optional("SES_CONFIGURATION_SET_TRANSACTIONAL"),
            bulk_set: optional("SES_CONFIGURATION_SET_BULK"),
            untracked_set: optional("SES_CONFIGURATION_SET_BULK_UNTRACKED"),
            support_url: optional("SUPPORT_URL").unwrap_or_else(|| format!("{app_url}/support")),
            postal_address: required("EMAIL_POSTAL_ADDRESS")?,
            signer: Signer::from_env()?,
            app_url,
            in_flight,
        })
    }
}
