//! What every mail shows besides its own variables, and the one place that decides whether a link may be shown.

use chrono_tz::Tz;
use url::Url;

use super::date::Date;

/// The platform as its mails show it: the same for every mail of a process.
#[derive(Debug, Clone)]
pub struct Site {
    /// Where the application lives; relative links are resolved against it.
    pub app_url: Url,
    /// Where a reader finds help.
    pub support_url: String,
    /// Where a reader chooses which mail to get.
    pub preferences_url: String,
    /// The sender's postal address, on one line; bulk mail must carry one by law.
    pub postal_address: String,
    /// Hosts besides the application's that `https` links may lead to.
    pub allowed_hosts: Vec<String>,
}

/// What the sender adds to one mail.
#[derive(Debug, Clone, Copy)]
pub struct Layout<'a> {
    /// The platform.
    pub site: &'a Site,
    /// The reader's zone.
    pub time_zone: Tz,
    /// The year in the footer.
    pub year: i32,
    /// The signed link of C8; `None` exactly for [`Essential`](super::Stream::Essential) mail, which has no
    /// unsubscribe footer.
    pub unsubscribe_url: Option<&'a str>,
}

impl Site {
    /// The platform at this address, with support at `/support`, preferences at `/settings/notifications` and no
    /// other host.
    ///
    /// # Errors
    ///
    /// The address is no absolute URL.
    pub fn new(app_url: &str, postal_address: impl Into<String>) -> Result<Self, url::ParseError> {
        let app_url = Url::parse(app_url)?;
        Ok(Self {
            support_url: app_url.join("/support")?.into(),
            preferences_url: app_url.join("/settings/notifications")?.into(),
            postal_address: postal_address.into(),
            allowed_hosts: Vec::new(),
            app_url,
        })
    }

    /// The address as it may stand in a mail, or `None` where it must not (C14): it leads to the application or, by
    /// `https` and without credentials or a port of its own, to an allowed host. A path is joined to the
    /// application's address. Parsed as browsers do, so that `//host`, `/\host` and the like are seen for what they are.
    #[must_use]
    pub fn link(&self, address: &str) -> Option<String> {
        if address.trim().is_empty() {
            return None;
        }
        let url = self.app_url.join(address).ok()?;
        let ours = url.origin() == self.app_url.origin();
        let allowed = url.scheme() == "https"
            && url.port().is_none()
            && url
                .host_str()
                .is_some_and(|host| self.allowed_hosts.iter().any(|allowed| allowed == host));
        let anonymous = url.username().is_empty() && url.password().is_none();
        (anonymous && (ours || allowed)).then(|| url.into())
    }
}

impl Layout<'_> {
    /// See [`Site::link`].
    #[must_use]
    pub fn link(&self, address: &str) -> Option<String> {
        self.site.link(address)
    }

    pub(super) fn date(&self, date: &Date) -> String {
        date.to_day(self.time_zone)
    }

    pub(super) fn moment(&self, date: &Date) -> String {
        date.to_moment(self.time_zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_the_application_or_an_allowed_host() {
        let mut site = Site::new("https://app.yesgoddess.com", "1 Main Street").unwrap();
        site.allowed_hosts.push("downloads.yesgoddess.com".to_owned());
        for (address, link) in [
            (
                "/licenses/1?tab=a b#c",
                Some("https://app.yesgoddess.com/licenses/1?tab=a%20b#c"),
            ),
            ("licenses/1", Some("https://app.yesgoddess.com/licenses/1")),
            ("https://app.yesgoddess.com/x", Some("https://app.yesgoddess.com/x")),
            ("HTTPS://APP.yesgoddess.com:443/x", Some("https://app.yesgoddess.com/x")),
            ("//app.yesgoddess.com/x", Some("https://app.yesgoddess.com/x")),
            (
                "https://downloads.yesgoddess.com/f.zip",
                Some("https://downloads.yesgoddess.com/f.zip"),
            ),
            ("/a\"><script>", Some("https://app.yesgoddess.com/a%22%3E%3Cscript%3E")),
            ("http://app.yesgoddess.com/x", None),
            ("http://downloads.yesgoddess.com/x", None),
            ("https://downloads.yesgoddess.com:8443/x", None),
            ("https://evil.example/x", None),
            ("//evil.example/x", None),
            ("/\\evil.example/x", None),
            ("\\\\evil.example", None),
            ("ht\ntps://evil.example", None),
            ("https://app.yesgoddess.com@evil.example/x", None),
            ("https://user:pass@app.yesgoddess.com/x", None),
            ("https://app.yesgoddess.com.evil.example/", None),
            ("https://evil-downloads.yesgoddess.com/", None),
            ("javascript:alert(1)", None),
            ("data:text/html,x", None),
            ("mailto:a@b.c", None),
            ("https://", None),
            (" \n", None),
            ("", None),
        ] {
            assert_eq!(site.link(address).as_deref(), link, "{address:?}");
        }
    }

    #[test]
    fn on_a_laptop_the_application_may_be_plain_http() {
        let site = Site::new("http://localhost:3000", "1 Main Street").unwrap();
        assert_eq!(site.link("/x").as_deref(), Some("http://localhost:3000/x"));
        assert_eq!(
            site.link("http://localhost:3000/x").as_deref(),
            Some("http://localhost:3000/x")
        );
        for other in [
            "http://localhost:3001/x",
            "https://localhost:3000/x",
            "http://localhost/x",
        ] {
            assert_eq!(site.link(other), None);
        }
        assert_eq!(site.support_url, "http://localhost:3000/support");
    }
}
