//! The mails' words: typed variables in, subject, text and HTML out.
//!
//! A template is a struct with its variables (in the submodule of its subject), two askama files below
//! `shared/services/templates`, one line in `TEMPLATES`, and for the tests an entry in `examples.json`. What a file
//! lacks is a compile error; what the variables of a mail lack is a [`TemplateError`], permanent, found by [`check`]
//! before the mail is queued or by [`render`] at the latest.
//!
//! Three rules hold for all of them (spec: comms C2, C14):
//!
//! - variables are data: escaped in HTML, one line in a subject, and a link only where [`Layout::link`] allows it;
//! - money is an integer in the currency's minor unit, a time is ISO 8601, and only the template makes words of them;
//! - a person without a name is greeted as "there", and variables that a template does not know are ignored.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::stream::{Category, Stream};

mod accounts;
mod date;
mod digests;
mod filters;
mod layout;
mod licenses;
mod line;
mod money;
mod notifications;
mod number;
mod operations;
mod payouts;
mod projects;
mod reports;
mod royalties;

pub use layout::{Layout, Site};

/// One mail, ready to be handed to SES.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// One line of 1 to 200 characters.
    pub subject: String,
    /// The `text/plain` part.
    pub text: String,
    /// The `text/html` part, at most 100 KB.
    pub html: String,
}

/// A mail holds names, amounts and tokens; none of them belongs in a log.
impl fmt::Debug for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rendered")
            .field("text", &self.text.len())
            .field("html", &self.html.len())
            .finish_non_exhaustive()
    }
}

/// Why a mail cannot be rendered. The text is the `status_reason` of the failed row; it names variables, never their
/// values. No retry can help.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// No template has this key.
    #[error("template_error: no template `{0}`")]
    Unknown(String),
    /// A required variable is absent, or a variable has the wrong type.
    #[error("template_error: {template}: {detail}")]
    MissingVariable {
        /// The template's key.
        template: &'static str,
        /// Which variable, and what is wrong with it.
        detail: String,
    },
    /// Nothing is left of the subject once control characters and white space are gone.
    #[error("empty_subject")]
    EmptySubject,
    /// The HTML part is over 100 KB, where mail clients begin to cut.
    #[error("template_error: {template}: html of {bytes} bytes is too large")]
    TooLarge {
        /// The template's key.
        template: &'static str,
        /// The size of the HTML part.
        bytes: usize,
    },
    /// The template itself failed.
    #[error("template_error: {template}: rendering failed")]
    Render {
        /// The template's key.
        template: &'static str,
        /// What askama says.
        source: askama::Error,
    },
}

const MAX_HTML_BYTES: usize = 100 * 1024;
const MAX_SUBJECT_CHARS: usize = 200;
const MAX_TITLE_CHARS: usize = 120;
const MAX_SUMMARY_CHARS: usize = 200;

/// What the sender must know of a template.
#[derive(Debug)]
#[non_exhaustive]
pub struct Template {
    /// Its name in `email_messages.template`.
    pub key: &'static str,
    /// The stream of its mails, except where the category is `system`: see [`Template::stream_for`].
    pub stream: Stream,
    /// The preference that turns it off; `None` where the notification or the digest decides.
    pub category: Option<Category>,
    /// May be held for the `email-digest`.
    pub digestable: bool,
    /// Asked for by the person a moment ago: passes a suppression for complaint.
    pub user_initiated: bool,
    /// Also sent to inactive and deleted users.
    pub allowed_for_inactive: bool,
    check: fn(&'static str, &str) -> Result<(), TemplateError>,
    brief: Option<Briefing>,
    render: fn(&'static str, &str, &Layout<'_>) -> Result<Rendered, TemplateError>,
}

/// Says in brief what a mail says.
type Briefing = fn(&'static str, &str) -> Result<Brief, TemplateError>;

/// Every template, by stream.
#[rustfmt::skip]
static TEMPLATES: &[Template] = &[
    Template::essential::<accounts::EmailVerification>("email-verification").user_initiated(),
    Template::essential::<accounts::PasswordReset>("password-reset").user_initiated(),
    Template::essential::<accounts::DeletionScheduled>("account-deletion-scheduled").allowed_for_inactive(),
    Template::essential::<accounts::Deleted>("account-deleted").allowed_for_inactive(),
    Template::essential::<accounts::Locked>("account-locked"),
    Template::essential::<operations::EmailAlert>("email-alert"),
    Template::essential::<operations::SecurityAlert>("security-alert"),

    Template::new::<notifications::Notification>("notification", Stream::Notification, None),
    Template::notification::<notifications::NewMessage>("new-message", Category::Messages),
    Template::notification::<payouts::PayoutConfirmation>("payout-confirmation", Category::Payouts),
    Template::notification::<payouts::PayoutFailed>("payout-failed", Category::Payouts),
    Template::notification::<royalties::StatementReady>("royalty-statement-ready", Category::RoyaltyStatements),
    Template::notification::<licenses::Expiry>("license-expiry", Category::LicenseExpiry),
    Template::notification::<licenses::ExpiryNotice>("license-expiry-90-day", Category::LicenseExpiry),
    Template::notification::<licenses::ExpiryNotice>("license-expiry-60-day", Category::LicenseExpiry),
    Template::notification::<licenses::ExpiryNotice>("license-expiry-30-day", Category::LicenseExpiry),
    Template::notification::<projects::Invitation>("project-invitation", Category::ProjectInvitations),
    Template::notification::<projects::Match>("project-match-notification", Category::ProjectInvitations).digestable::<projects::Match>(),
    Template::notification::<reports::CreatorMonth>("creator-monthly-report", Category::Reports).digestable::<reports::CreatorMonth>(),

    Template::new::<digests::NotificationDigest>("notification-digest", Stream::Digest, None),
    Template::new::<digests::MessageDigest>("message-digest", Stream::Digest, Some(Category::Messages)),
    Template::new::<digests::EmailDigest>("email-digest", Stream::Digest, None),
];

/// Keys that producers of the old platform use, and what they mean.
const ALIASES: &[(&str, &str)] = &[
    ("license-expiry-notice", "license-expiry"),
    ("royalty-statement", "royalty-statement-ready"),
    ("royalty-statement-available", "royalty-statement-ready"),
    ("system-notification", "notification"),
];

/// The template with this key, or with this old name.
#[must_use]
pub fn find(key: &str) -> Option<&'static Template> {
    let key = ALIASES
        .iter()
        .find(|(alias, _)| *alias == key)
        .map_or(key, |(_, key)| key);
    TEMPLATES.iter().find(|template| template.key == key)
}

/// Every template there is.
pub fn all() -> impl Iterator<Item = &'static Template> {
    TEMPLATES.iter()
}

/// Whether the variables, a JSON object, suffice for the template, so that a producer can choose a plainer one before it
/// queues the mail.
///
/// # Errors
///
/// [`TemplateError::Unknown`], [`TemplateError::MissingVariable`].
pub fn check(key: &str, variables: &str) -> Result<(), TemplateError> {
    let template = find(key).ok_or_else(|| TemplateError::Unknown(key.to_owned()))?;
    (template.check)(template.key, variables)
}

/// Renders the mail from its variables, a JSON object as text: read into the template's own types, without a tree of it.
///
/// # Errors
///
/// Every [`TemplateError`]; all are permanent.
pub fn render(key: &str, variables: &str, layout: &Layout<'_>) -> Result<Rendered, TemplateError> {
    let template = find(key).ok_or_else(|| TemplateError::Unknown(key.to_owned()))?;
    (template.render)(template.key, variables, layout)
}

/// What the e-mail digest says of a mail that it carries (spec: comms, `email-digest`).
///
/// # Errors
///
/// [`TemplateError::Unknown`], also for a template that no digest can carry; [`TemplateError::MissingVariable`].
pub fn brief(key: &str, variables: &str) -> Result<Brief, TemplateError> {
    let unknown = || TemplateError::Unknown(key.to_owned());
    let template = find(key).ok_or_else(unknown)?;
    (template.brief.ok_or_else(unknown)?)(template.key, variables)
}

impl Template {
    const fn new<M: Mail>(key: &'static str, stream: Stream, category: Option<Category>) -> Self {
        Self {
            key,
            stream,
            category,
            digestable: false,
            user_initiated: false,
            allowed_for_inactive: false,
            check: |key, variables| parse::<M>(key, variables).map(drop),
            brief: None,
            render: render_as::<M>,
        }
    }

    const fn essential<M: Mail>(key: &'static str) -> Self {
        Self::new::<M>(key, Stream::Essential, Some(Category::System))
    }

    const fn notification<M: Mail>(key: &'static str, category: Category) -> Self {
        Self::new::<M>(key, Stream::Notification, Some(category))
    }

    const fn digestable<M: InBrief>(mut self) -> Self {
        self.digestable = true;
        self.brief = Some(brief_as::<M>);
        self
    }

    const fn user_initiated(mut self) -> Self {
        self.user_initiated = true;
        self
    }

    const fn allowed_for_inactive(mut self) -> Self {
        self.allowed_for_inactive = true;
        self
    }

    /// The stream of a mail of this template in that category: what is `system` is owed to the person.
    #[must_use]
    pub fn stream_for(&self, category: Category) -> Stream {
        match category {
            Category::System => Stream::Essential,
            _ => self.stream,
        }
    }
}

/// The variables of one template, and what becomes of them.
trait Mail: DeserializeOwned {
    /// Raw: [`render`] makes one line of it.
    fn subject(&self, layout: &Layout<'_>) -> String;
    fn text(&self, layout: &Layout<'_>) -> askama::Result<String>;
    fn html(&self, layout: &Layout<'_>, subject: &str) -> askama::Result<String>;
}

/// A mail as one entry of the e-mail digest.
#[derive(Clone, PartialEq, Eq)]
pub struct Brief {
    /// One line of at most 120 characters.
    pub title: String,
    /// One sentence of at most 200 characters.
    pub summary: String,
    /// Where it leads; not yet known to be allowed.
    pub url: String,
}

/// A mail that can wait for the e-mail digest.
trait InBrief: Mail {
    /// Raw: [`brief`] makes lines of it.
    fn in_brief(&self) -> Brief;
}

fn brief_as<M: InBrief>(template: &'static str, variables: &str) -> Result<Brief, TemplateError> {
    let brief = parse::<M>(template, variables)?.in_brief();
    Ok(Brief {
        title: line::cut(line::one_line(&brief.title), MAX_TITLE_CHARS),
        summary: line::cut(line::one_line(&brief.summary), MAX_SUMMARY_CHARS),
        url: brief.url,
    })
}

/// Binds a struct to its two files. In a file the struct's fields stand bare, beside `layout` and, in HTML, `subject`.
macro_rules! mail {
    ($mail:ty, $html:literal, $text:literal, $subject:expr) => {
        const _: () = {
            use $crate::mail::templates::{Layout, Mail};

            #[derive(askama::Template)]
            #[template(path = $html, whitespace = "minimize")]
            struct Html<'a> {
                mail: &'a $mail,
                layout: &'a Layout<'a>,
                subject: &'a str,
            }

            #[derive(askama::Template)]
            #[template(path = $text)]
            struct Text<'a> {
                mail: &'a $mail,
                layout: &'a Layout<'a>,
            }

            impl std::ops::Deref for Html<'_> {
                type Target = $mail;
                fn deref(&self) -> &$mail {
                    self.mail
                }
            }

            impl std::ops::Deref for Text<'_> {
                type Target = $mail;
                fn deref(&self) -> &$mail {
                    self.mail
                }
            }

            impl Mail for $mail {
                fn subject(&self, layout: &Layout<'_>) -> String {
                    $crate::mail::templates::compose(self, layout, $subject)
                }

                fn html(&self, layout: &Layout<'_>, subject: &str) -> askama::Result<String> {
                    askama::Template::render(&Html {
                        mail: self,
                        layout,
                        subject,
                    })
                }

                fn text(&self, layout: &Layout<'_>) -> askama::Result<String> {
                    askama::Template::render(&Text { mail: self, layout })
                }
            }
        };
    };
}
use mail;

/// Tells the compiler what the subject closures of [`mail!`] take.
fn compose<M, S: Into<String>>(mail: &M, layout: &Layout<'_>, subject: impl FnOnce(&M, &Layout<'_>) -> S) -> String {
    subject(mail, layout).into()
}

fn parse<M: Mail>(template: &'static str, variables: &str) -> Result<M, TemplateError> {
    serde_json::from_str(variables).map_err(|_| TemplateError::MissingVariable {
        template,
        detail: complaint::<M>(variables),
    })
}

/// Reads the variables once more, now keeping the path: only a failure pays for it. What serde says of a wrong type
/// quotes the value, so only its place is told.
fn complaint<M: Mail>(variables: &str) -> String {
    let variables: Value = serde_json::from_str(variables).unwrap_or_default();
    let Err(error) = serde_path_to_error::deserialize::<_, M>(&variables) else {
        return String::new();
    };
    let (path, inner) = (error.path().to_string(), error.inner().to_string());
    match (inner.starts_with("missing field"), path.as_str()) {
        (true, ".") => inner,
        (true, path) => format!("{inner} in `{path}`"),
        (false, path) => format!("wrong type or value of `{path}`"),
    }
}

fn render_as<M: Mail>(template: &'static str, variables: &str, layout: &Layout<'_>) -> Result<Rendered, TemplateError> {
    let failed = |source| TemplateError::Render { template, source };
    let mail: M = parse(template, variables)?;

    let subject = line::cut(line::one_line(&mail.subject(layout)), MAX_SUBJECT_CHARS);
    if subject.is_empty() {
        return Err(TemplateError::EmptySubject);
    }
    let html = mail.html(layout, &subject).map_err(failed)?;
    if html.len() > MAX_HTML_BYTES {
        return Err(TemplateError::TooLarge {
            template,
            bytes: html.len(),
        });
    }
    let text = line::paragraphs(&mail.text(layout).map_err(failed)?);
    Ok(Rendered { subject, text, html })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write;

    use serde::Deserialize;
    use serde_json::{Map, json};

    use super::*;

    /// Variables as producers send them: every required one, and every optional one.
    #[derive(Deserialize)]
    struct Example {
        required: Map<String, Value>,
        optional: Map<String, Value>,
    }

    impl Example {
        fn full(&self) -> Value {
            self.required
                .clone()
                .into_iter()
                .chain(self.optional.clone())
                .collect::<Map<_, _>>()
                .into()
        }
    }

    fn examples() -> BTreeMap<String, Example> {
        serde_json::from_str(include_str!("../../templates/examples.json")).unwrap()
    }

    fn example(key: &str) -> Value {
        examples()[key].full()
    }

    fn site() -> Site {
        Site::new(
            "https://app.yesgoddess.com",
            "YES GODDESS Inc., 1 Main Street, New York, NY 10001",
        )
        .unwrap()
    }

    fn layout(site: &Site) -> Layout<'_> {
        Layout {
            site,
            time_zone: chrono_tz::Europe::Berlin,
            year: 2025,
            unsubscribe_url: Some("https://app.yesgoddess.com/api/email/unsubscribe/e30.c2ln"),
        }
    }

    fn check(key: &str, variables: &Value) -> Result<(), TemplateError> {
        super::check(key, &variables.to_string())
    }

    fn render(key: &str, variables: &Value, layout: &Layout<'_>) -> Result<Rendered, TemplateError> {
        super::render(key, &variables.to_string(), layout)
    }

    fn brief(key: &str, variables: &Value) -> Result<Brief, TemplateError> {
        super::brief(key, &variables.to_string())
    }

    fn rendered(key: &str, variables: &Value) -> Rendered {
        render(key, variables, &layout(&site())).unwrap()
    }

    fn without(variables: &Value, name: &str) -> Value {
        let mut variables = variables.clone();
        variables.as_object_mut().unwrap().remove(name).unwrap();
        variables
    }

    fn with(mut variables: Value, name: &str, value: impl Into<Value>) -> Value {
        variables[name] = value.into();
        variables
    }

    #[test]
    fn every_template_has_an_example_and_every_example_a_template() {
        let mut keys: Vec<_> = all().map(|template| template.key).collect();
        keys.sort_unstable();
        assert_eq!(keys, examples().keys().collect::<Vec<_>>());
        keys.dedup();
        assert_eq!(keys.len(), all().count());
    }

    #[test]
    fn every_template_renders_with_all_variables_and_with_the_required_ones_only() {
        for (key, example) in examples() {
            for variables in [example.full(), example.required.clone().into()] {
                let mail = rendered(&key, &variables);
                assert_eq!(check(&key, &variables).map_err(|error| error.to_string()), Ok(()));
                assert!((1..=200).contains(&mail.subject.chars().count()), "{key}");
                for part in [&mail.text, &mail.html] {
                    assert!(part.contains("1 Main Street"), "{key}");
                    assert!(
                        part.contains("https://app.yesgoddess.com/api/email/unsubscribe/e30.c2ln"),
                        "{key}"
                    );
                    assert!(
                        part.contains("https://app.yesgoddess.com/settings/notifications"),
                        "{key}"
                    );
                    assert!(
                        !part.contains("{{") && !part.contains("{%") && !part.contains("Some("),
                        "{key}"
                    );
                }
                assert!(
                    !mail.text.contains("\n\n\n") && mail.text.ends_with('\n'),
                    "{key}: {}",
                    mail.text
                );
                assert!(
                    !mail.text.lines().any(|line| line.ends_with(' ')),
                    "{key}: {}",
                    mail.text
                );
            }
        }
    }

    #[test]
    fn a_required_variable_cannot_be_left_out_and_a_readers_name_can() {
        let greetings = ["user_name", "recipient_name", "creator_name"];
        for (key, example) in examples() {
            for name in example.required.keys() {
                let variables = without(&example.full(), name);
                match render(&key, &variables, &layout(&site())) {
                    Ok(mail) => {
                        assert!(greetings.contains(&name.as_str()), "{key} renders without {name}");
                        assert!(
                            mail.text.contains("Hi there,") && mail.html.contains("Hi there,"),
                            "{key}"
                        );
                    }
                    Err(error) => {
                        assert_eq!(
                            error.to_string(),
                            format!("template_error: {key}: missing field `{name}`")
                        );
                        assert_eq!(check(&key, &variables).unwrap_err().to_string(), error.to_string());
                    }
                }
            }
            for name in example.optional.keys() {
                rendered(&key, &without(&example.full(), name));
                rendered(&key, &with(example.full(), name, Value::Null));
            }
        }
    }

    #[test]
    fn a_wrong_type_is_placed_but_not_quoted() {
        let failure = |key, variables| check(key, &variables).unwrap_err().to_string();
        for amount in [json!("1250.00 of Ada"), json!(1250.5), json!(null)] {
            assert_eq!(
                failure(
                    "payout-confirmation",
                    with(example("payout-confirmation"), "amount_cents", amount)
                ),
                "template_error: payout-confirmation: wrong type or value of `amount_cents`"
            );
        }
        let item = |edit: fn(&mut Map<String, Value>)| {
            let mut digest = example("notification-digest");
            edit(digest["sections"][1]["items"][0].as_object_mut().unwrap());
            failure("notification-digest", digest)
        };
        assert_eq!(
            item(|item| item["created_at"] = json!("yesterday")),
            "template_error: notification-digest: wrong type or value of `sections[1].items[0].created_at`"
        );
        assert_eq!(
            item(|item| drop(item.remove("title"))),
            "template_error: notification-digest: missing field `title` in `sections[1].items[0]`"
        );
        assert_eq!(
            failure("password-reset", json!([])),
            "template_error: password-reset: wrong type or value of `.`"
        );
    }

    #[test]
    fn an_unknown_template_is_named_and_an_old_name_is_known() {
        assert_eq!(
            check("welcome!", &json!({})).unwrap_err().to_string(),
            "template_error: no template `welcome!`"
        );
        for (old, key) in ALIASES {
            assert_eq!(find(old).unwrap().key, *key);
        }
    }

    #[test]
    fn what_the_sender_must_know_is_as_the_specification_says() {
        let mut table = String::new();
        for Template {
            key,
            stream,
            category,
            digestable,
            user_initiated,
            allowed_for_inactive,
            ..
        } in all()
        {
            let category = category.map_or("by type", Category::as_str);
            let flags = [
                digestable.then_some("digestable"),
                user_initiated.then_some("user-initiated"),
                allowed_for_inactive.then_some("inactive too"),
            ];
            let flags = flags.into_iter().flatten().collect::<Vec<_>>().join(", ");
            writeln!(
                table,
                "{}",
                format!("{key:<27} {stream:<12} {category:<19} {flags}").trim_end()
            )
            .unwrap();
        }
        insta::assert_snapshot!(table);
        let notification = find("notification").unwrap();
        assert_eq!(notification.stream_for(Category::System), Stream::Essential);
        assert_eq!(notification.stream_for(Category::Payouts), Stream::Notification);
    }

    #[test]
    fn what_can_wait_for_a_digest_can_be_said_in_brief() {
        for template in all() {
            let said = brief(template.key, &example(template.key));
            assert_eq!(said.is_ok(), template.digestable, "{}", template.key);
            if let Ok(said) = said {
                assert!((1..=120).contains(&said.title.chars().count()), "{}", said.title);
                assert!((1..=200).contains(&said.summary.chars().count()), "{}", said.summary);
                assert!(site().link(&said.url).is_some(), "{}", said.url);
            }
        }
        let long = with(
            example("project-match-notification"),
            "project_description",
            "é\n".repeat(300),
        );
        let said = brief("project-match-notification", &long).unwrap_or_else(|error| panic!("{error}"));
        assert!(
            said.summary.chars().count() > 190 && !said.summary.contains('\n'),
            "{}",
            said.summary
        );
    }

    #[test]
    fn a_subject_is_one_line_of_at_most_200_characters() {
        let subject = |title: &str| rendered("notification", &with(example("notification"), "title", title)).subject;
        assert_eq!(subject(" Hi\r\nBcc: x@y.z \u{7}\t there "), "Hi Bcc: x@y.z there");
        assert_eq!(subject(&"é".repeat(255)), "é".repeat(200));
        let blank = with(example("notification"), "title", " \u{0}\r\n ");
        let error = render("notification", &blank, &layout(&site())).unwrap_err();
        assert_eq!(error.to_string(), "empty_subject");
    }

    #[test]
    fn subjects_follow_their_variables() {
        let digest = with(example("notification-digest"), "total_count", 1);
        assert_eq!(
            rendered("notification-digest", &digest).subject,
            "You have 1 unread notification"
        );
        let digest = with(example("message-digest"), "total_unread_count", 1);
        assert_eq!(rendered("message-digest", &digest).subject, "You have 1 unread message");
        for thread in [json!(null), json!(" ")] {
            let message = with(example("new-message"), "thread_subject", thread);
            assert_eq!(
                rendered("new-message", &message).subject,
                "New message from Grace Hopper"
            );
        }
        let notice = |days: i64, name: &str| {
            let notice = with(example("license-expiry-30-day"), "days_remaining", days);
            rendered("license-expiry-30-day", &with(notice, name, true)).subject
        };
        assert_eq!(
            notice(27, "x"),
            "Action required: Night Garden license expires in 27 days"
        );
        assert_eq!(notice(1, "x"), "Action required: Night Garden license expires tomorrow");
        assert_eq!(
            notice(0, "expired"),
            "Action required: Night Garden license has expired"
        );
        assert_eq!(
            notice(0, "grace_period_active"),
            "Action required: Night Garden license is in its grace period"
        );
    }

    #[test]
    fn markup_in_a_variable_is_escaped_once_in_html_and_never_in_text() {
        let hostile = "<b>\"&amp;\"</b>'";
        let mut variables = example("notification");
        for name in ["user_name", "title", "message", "action_label"] {
            variables[name] = hostile.into();
        }
        let mail = rendered("notification", &variables);
        assert_eq!(mail.subject, hostile);
        assert_eq!(mail.text.matches(hostile).count(), 4, "{}", mail.text);
        // Title, preheader, heading, greeting, message, button.
        assert_eq!(
            mail.html
                .matches("&#60;b&#62;&#34;&#38;amp;&#34;&#60;/b&#62;&#39;")
                .count(),
            6,
            "{}",
            mail.html
        );
        assert!(!mail.html.contains("<b>"));
    }

    #[test]
    fn a_link_that_is_not_allowed_leaves_no_trace() {
        for url in ["https://evil.example/x", "javascript:alert(1)", "//evil.example", ""] {
            let mail = rendered("notification", &with(example("notification"), "action_url", url));
            for part in [mail.text, mail.html] {
                assert!(!part.contains("evil") && !part.contains("alert(1)") && !part.contains("See the collection"));
            }
        }
        for (key, example) in examples() {
            let mail = rendered(&key, &mislead(example.full()));
            assert!(!mail.text.contains("evil") && !mail.html.contains("evil"), "{key}");
            // Brand, preferences, unsubscribe and help; the deletion notice has a button to the support.
            let own = if key == "account-deletion-scheduled" { 5 } else { 4 };
            assert_eq!(mail.html.matches("<a ").count(), own, "{key}: {}", mail.html);
        }
        let mail = rendered(
            "notification",
            &with(example("notification"), "action_url", "/x?a=1&b=\"2\""),
        );
        assert!(
            mail.text
                .contains("See the collection: https://app.yesgoddess.com/x?a=1&b=%222%22\n")
        );
        assert!(
            mail.html
                .contains("href=\"https://app.yesgoddess.com/x?a=1&#38;b=%222%22\"")
        );
    }

    /// The same variables, with every address leading astray.
    fn mislead(variables: Value) -> Value {
        match variables {
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| match value {
                    Value::String(_) if name.ends_with("url") => (name, "https://evil.example/x".into()),
                    value => (name, mislead(value)),
                })
                .collect(),
            Value::Array(values) => values.into_iter().map(mislead).collect(),
            value => value,
        }
    }

    #[test]
    fn essential_mail_offers_no_way_to_unsubscribe() {
        let site = site();
        let layout = Layout {
            unsubscribe_url: None,
            ..layout(&site)
        };
        let mail = render("password-reset", &example("password-reset"), &layout).unwrap();
        for part in [mail.text, mail.html] {
            assert!(!part.contains("nsubscribe") && !part.contains("/settings/notifications"));
            assert!(part.contains("1 Main Street"));
        }
    }

    #[test]
    fn days_are_the_readers_own() {
        let site = site();
        let scheduled = example("account-deletion-scheduled");
        for (zone, subject) in [
            (chrono_tz::UTC, "Your account will be deleted on 19 November 2025"),
            (
                chrono_tz::Asia::Kolkata,
                "Your account will be deleted on 20 November 2025",
            ),
        ] {
            let layout = Layout {
                time_zone: zone,
                ..layout(&site)
            };
            assert_eq!(
                render("account-deletion-scheduled", &scheduled, &layout)
                    .unwrap()
                    .subject,
                subject
            );
        }
    }

    #[test]
    fn html_over_100_kb_is_refused() {
        let long = with(example("notification"), "message", "&".repeat(MAX_HTML_BYTES / 8));
        let error = render("notification", &long, &layout(&site())).unwrap_err();
        assert!(
            matches!(error, TemplateError::TooLarge { bytes, .. } if bytes > MAX_HTML_BYTES),
            "{error}"
        );
    }

    #[test]
    fn html_is_lean() {
        let mail = rendered("notification", &example("notification"));
        assert!(mail.html.len() < 6 * 1024, "{} bytes", mail.html.len());
    }

    #[test]
    fn nothing_of_a_mail_gets_into_a_log() {
        let mail = rendered("notification", &example("notification"));
        assert!(!format!("{mail:?}").contains("Ada"));
    }

    #[test]
    fn mails_read_like_this() {
        for (key, example) in examples() {
            let mail = rendered(&key, &example.full());
            insta::assert_snapshot!(
                format!("{key}.txt"),
                format!("Subject: {}\n\n{}", mail.subject, mail.text)
            );
        }
    }

    #[test]
    fn mails_look_like_this() {
        for key in [
            "notification",
            "payout-confirmation",
            "new-message",
            "notification-digest",
        ] {
            insta::assert_snapshot!(format!("{key}.html"), rendered(key, &example(key)).html);
        }
    }
}
