//! Answers the unsubscribe links of mails (RFC 8058; spec: comms, C8).
//!
//! # Invariants
//!
//! * GET changes nothing: scanners follow every link of every mail.
//! * POST acts at once, without a login, a cookie or a redirect; what it asks for is on the queue of `email-events` when 200 is answered.
//! * Here only signatures are verified. What a token means, and whether it changes anything, `email-events` decides.

use std::process::ExitCode;

use askama::Template;
use jobs::{EmailEvent, Unsubscribe, UnsubscribeSource, catalog};
use runtime::{Request, Response, Sender};
use services::mail::{Claim, Signer};

/// What a page may load and do: nothing but look as it does and send its own form.
const CONTENT_SECURITY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

fn main() -> ExitCode {
    runtime::serve_endpoint(catalog::UNSUBSCRIBE, answer)
}

/// What a person reads.
#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    title: &'a str,
    text: &'a str,
    /// With a button that unsubscribes.
    asks: bool,
}

async fn answer(request: &Request, sender: &Sender) -> Response {
    let get = matches!(&*request.method, "GET" | "HEAD");
    if !get && request.method != "POST" {
        return Response::empty(405).with("allow", "GET, HEAD, POST");
    }
    let signer = match Signer::from_env() {
        Ok(signer) => signer,
        Err(error) => {
            tracing::error!(error = error.chain(), "links cannot be verified");
            return later();
        }
    };
    let token = request
        .path
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    let Some(claim) = signer.verify(token) else {
        return page(
            400,
            "This link does not work",
            "It may have been cut off. Please use the link in the e-mail itself.",
            false,
        );
    };
    let what = what(&claim);
    if get {
        return page(200, "Unsubscribe?", &format!("You will get no more {what}."), true);
    }
    let Some(source) = asked_by(&request.body) else {
        return page(
            400,
            "Nothing was changed",
            "The request did not say what it wants.",
            true,
        );
    };
    let message = EmailEvent::Unsubscribe(Unsubscribe {
        token: token.to_owned(),
        source,
        ip: request.ip.clone(),
        user_agent: request.user_agent.clone(),
        as_of: None,
    });
    match sender.send(&catalog::EMAIL_EVENTS, &message, request).await {
        Ok(()) if source == UnsubscribeSource::OneClick => Response::empty(200).with("cache-control", "no-store"),
        Ok(()) => page(
            200,
            "You are unsubscribed",
            &format!("You will get no more {what}."),
            false,
        ),
        Err(error) => {
            tracing::warn!(error = error.chain(), "a wish was not taken");
            later()
        }
    }
}

/// Who sends this body: a mail program, as a form of either encoding (RFC 8058, section 3.1), or our own page.
fn asked_by(body: &str) -> Option<UnsubscribeSource> {
    let has = |name: &str, value: &str| {
        url::form_urlencoded::parse(body.as_bytes()).any(|(n, v)| n == name && v.trim() == value)
    };
    let multipart =
        || body.contains(r#"name="List-Unsubscribe""#) && body.lines().any(|line| line.trim() == "One-Click");
    if has("List-Unsubscribe", "One-Click") || multipart() {
        Some(UnsubscribeSource::OneClick)
    } else if has("confirm", "yes") {
        Some(UnsubscribeSource::EmailLink)
    } else {
        None
    }
}

/// What the claim is about, as the recipient would say.
fn what(claim: &Claim) -> String {
    if claim.user_id.is_none() {
        return "e-mails from YES GODDESS".to_owned();
    }
    match claim.digest.as_deref() {
        Some("notification-digest") => "digests of your notifications".to_owned(),
        Some("message-digest") => "e-mails about your messages".to_owned(),
        Some("email-digest") => "collected updates".to_owned(),
        _ => format!("e-mails about {}", claim.category.replace('_', " ")),
    }
}

fn later() -> Response {
    page(
        503,
        "Please try again",
        "We could not save that. Please try again in a minute.",
        false,
    )
    .with("retry-after", "60")
}

fn page(status: u16, title: &str, text: &str, asks: bool) -> Response {
    Response {
        body: Page { title, text, asks }.render().unwrap_or_default(),
        ..Response::empty(status)
    }
    .with("content-type", "text/html; charset=utf-8")
    .with("cache-control", "no-store")
    .with("content-security-policy", CONTENT_SECURITY)
    // The address holds the token.
    .with("referrer-policy", "no-referrer")
    .with("x-content-type-options", "nosniff")
    .with("x-robots-tag", "noindex")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_program_and_our_page_are_told_apart_and_anything_else_is_refused() {
        use UnsubscribeSource::{EmailLink, OneClick};
        let multipart =
            "--b\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--b--\r\n";
        for (body, source) in [
            ("List-Unsubscribe=One-Click", Some(OneClick)),
            ("List-Unsubscribe=One-Click\r\n", Some(OneClick)),
            ("a=b&List-Unsubscribe=One-Click", Some(OneClick)),
            (multipart, Some(OneClick)),
            ("confirm=yes", Some(EmailLink)),
            ("", None),
            ("List-Unsubscribe=Two-Clicks", None),
            ("confirm=no", None),
        ] {
            assert_eq!(asked_by(body), source, "{body:?}");
        }
    }

    #[test]
    fn a_page_is_safe_to_show() {
        let response = page(200, "<b>", "a & b", true);
        assert!(!response.body.contains("<b>") && response.body.contains("<form method=\"post\">"));
        assert!(!page(200, "t", "t", false).body.contains("<form"));
        assert_eq!(response.headers["referrer-policy"], "no-referrer");
    }
}
