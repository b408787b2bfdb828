use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Instant;

use serde::Deserialize;

/// A mail that was accepted.
#[derive(Clone, Debug)]
pub struct Mail {
    /// `MessageId` of the answer.
    pub id: String,
    /// The sender, as given: `Name <address>`.
    pub from: String,
    /// All recipients: to, copy and blind copy.
    pub to: Vec<String>,
    /// Where answers go.
    pub reply_to: Vec<String>,
    /// The subject.
    pub subject: String,
    /// The plain part, empty when there is none.
    pub text: String,
    /// The HTML part, empty when there is none.
    pub html: String,
    /// Headers that the sender added.
    pub headers: BTreeMap<String, String>,
    /// Message tags.
    pub tags: BTreeMap<String, String>,
    /// The configuration set, empty when there is none.
    pub configuration_set: String,
    /// When it was accepted.
    pub accepted_at: Instant,
}

/// `SendEmail` on the wire, as far as every call needs it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Envelope<'a> {
    #[serde(borrow)]
    from_email_address: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    destination: Destination<'a>,
    #[serde(borrow, default)]
    email_tags: Vec<Pair<'a>>,
    #[serde(borrow)]
    content: Option<&'a serde_json::value::RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Destination<'a> {
    #[serde(borrow)]
    to_addresses: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    cc_addresses: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    bcc_addresses: Vec<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pair<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    value: Cow<'a, str>,
}

/// The rest, only read when the mail is kept.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Rest {
    reply_to_addresses: Vec<String>,
    configuration_set_name: String,
    content: Content,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Content {
    simple: Simple,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Simple {
    subject: Part,
    body: Body,
    headers: Vec<Header>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Body {
    text: Part,
    html: Part,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Part {
    data: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Header {
    name: String,
    value: String,
}

impl Envelope<'_> {
    pub(super) fn recipients(&self) -> impl Iterator<Item = &str> {
        let Destination {
            to_addresses,
            cc_addresses,
            bcc_addresses,
        } = &self.destination;
        to_addresses
            .iter()
            .chain(cc_addresses)
            .chain(bcc_addresses)
            .map(|address| &**address)
    }

    pub(super) fn tag(&self, name: &str) -> Option<&str> {
        self.email_tags
            .iter()
            .find(|tag| tag.name == name)
            .map(|tag| &*tag.value)
    }

    /// What SES would call a bad request.
    pub(super) fn wrong(&self) -> Option<String> {
        let fit = |text: &str| {
            let fit = |b: u8| b.is_ascii_alphanumeric() || b"_-.@".contains(&b);
            (1..=256).contains(&text.len()) && text.bytes().all(fit)
        };
        if self.from_email_address.as_ref().is_none_or(|from| !from.contains('@')) {
            Some("there is no sender".to_owned())
        } else if self.recipients().next().is_none() {
            Some("there is no recipient".to_owned())
        } else if let Some(address) = self
            .recipients()
            .find(|address| !address.is_ascii() || !address.contains('@'))
        {
            Some(format!("{address:?} is not an address"))
        } else if self.recipients().count() > 50 {
            Some("there are more than 50 recipients".to_owned())
        } else if self.content.is_none() {
            Some("there is no content".to_owned())
        } else {
            let unfit = self.email_tags.iter().find(|tag| !fit(&tag.name) || !fit(&tag.value));
            unfit.map(|tag| {
                format!(
                    "the tag {}={:?} has characters that tags cannot have",
                    tag.name, tag.value
                )
            })
        }
    }

    pub(super) fn keep(&self, id: String, body: &[u8]) -> serde_json::Result<Mail> {
        let Rest {
            reply_to_addresses,
            configuration_set_name,
            content,
        } = serde_json::from_slice(body)?;
        let Simple { subject, body, headers } = content.simple;
        Ok(Mail {
            id,
            from: self.from_email_address.as_deref().unwrap_or_default().to_owned(),
            to: self.recipients().map(str::to_owned).collect(),
            reply_to: reply_to_addresses,
            subject: subject.data,
            text: body.text.data,
            html: body.html.data,
            headers: headers.into_iter().map(|header| (header.name, header.value)).collect(),
            tags: self
                .email_tags
                .iter()
                .map(|tag| (tag.name.to_string(), tag.value.to_string()))
                .collect(),
            configuration_set: configuration_set_name,
            accepted_at: Instant::now(),
        })
    }
}
