use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Redacted};

/// What an unsubscribe link says, signed and stateless: nothing is stored per link, and a new mail does not
/// break an older one's (spec: comms, C8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The user, if the address has one.
    pub user_id: Option<String>,
    /// Sha-256 of the address, in hex.
    pub address_hash: String,
    /// The category to switch off.
    pub category: String,
    /// The digest to switch off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The campaign that carried the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign_id: Option<String>,
    /// The mail that carried the link.
    pub email_id: String,
}

impl Claim {
    /// The hash of an address as a claim holds it.
    pub fn hash(address: &str) -> String {
        Sha256::digest(address)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// Signs and verifies unsubscribe tokens. The first key signs, all verify.
#[derive(Clone, Debug)]
pub struct Signer {
    keys: Vec<(String, Redacted<Vec<u8>>)>,
}

#[derive(Serialize, Deserialize)]
struct Payload {
    v: u8,
    k: String,
    #[serde(flatten)]
    claim: Claim,
}

impl Signer {
    /// From `UNSUBSCRIBE_KEY`.
    pub fn from_env() -> Result<Self, Error> {
        let keys = std::env::var("UNSUBSCRIBE_KEY").unwrap_or_default();
        if keys.is_empty() {
            return Err(Error::permanent("the environment has no UNSUBSCRIBE_KEY"));
        }
        Self::parse(&keys)
    }

    /// Keys as `id:secret`, comma-separated, the current one first.
    pub fn parse(keys: &str) -> Result<Self, Error> {
        let key = |text: &str| {
            let (id, secret) = text.trim().split_once(':').unwrap_or(("1", text.trim()));
            (secret.len() >= 16).then(|| (id.to_owned(), Redacted::new(secret.as_bytes().to_vec())))
        };
        let keys: Option<Vec<_>> = keys.split(',').map(key).collect();
        keys.map(|keys| Self { keys })
            .ok_or_else(|| Error::permanent("an unsubscribe key has fewer than 16 characters"))
    }

    /// `base64url(json) "." base64url(hmac)`.
    pub fn sign(&self, claim: &Claim) -> String {
        let (id, key) = &self.keys[0];
        let payload = Payload {
            v: 1,
            k: id.clone(),
            claim: claim.clone(),
        };
        let body = BASE64.encode(serde_json::to_vec(&payload).unwrap_or_default());
        let mark = BASE64.encode(mac(key.expose(), &body).finalize().into_bytes());
        format!("{body}.{mark}")
    }

    /// What the token claims, if one of our keys signed it.
    pub fn verify(&self, token: &str) -> Option<Claim> {
        let (body, mark) = token.split_once('.')?;
        let payload: Payload = serde_json::from_slice(&BASE64.decode(body).ok()?).ok()?;
        let (_, key) = self.keys.iter().find(|(id, _)| *id == payload.k)?;
        mac(key.expose(), body).verify_slice(&BASE64.decode(mark).ok()?).ok()?;
        (payload.v == 1).then_some(payload.claim)
    }
}

fn mac(key: &[u8], body: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
    mac.update(body.as_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Claim {
        let address_hash = Claim::hash("ann@example.test");
        Claim {
            user_id: Some("u1".into()),
            address_hash,
            category: "payouts".into(),
            digest: None,
            campaign_id: None,
            email_id: "e1".into(),
        }
    }

    #[test]
    fn a_token_of_the_previous_key_still_counts_and_a_changed_one_does_not() {
        let old = Signer::parse("a:0123456789abcdef").unwrap();
        let token = old.sign(&claim());
        let new = Signer::parse("b:fedcba9876543210,a:0123456789abcdef").unwrap();
        assert_eq!(new.verify(&token), Some(claim()));
        assert_eq!(old.verify(&new.sign(&claim())), None);
        let forged = token.replacen(&token[3..4], if &token[3..4] == "A" { "B" } else { "A" }, 1);
        assert_eq!(new.verify(&forged), None);
        for garbage in ["", ".", "a.b", &token[..token.len() - 2]] {
            assert_eq!(new.verify(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn a_short_key_is_refused() {
        assert!(Signer::parse("a:short").is_err());
    }
}
