//! What a user agent tells: a person with a device, or a program that looks at mail before, or instead of, a person.

/// Parts of the names of scanners and link checkers, in lower case.
const MACHINES: [&str; 14] = [
    "bot/",
    "crawler",
    "spider",
    "scanner",
    "barracuda",
    "proofpoint",
    "mimecast",
    "symantec",
    "headlesschrome",
    "python-requests",
    "curl/",
    "wget/",
    "go-http-client",
    "java/",
];
/// With this, and nothing after it, Apple's mail privacy protection fetches every image of every mail.
const APPLE_PREFETCH: &str = "Mozilla/5.0";
/// What Gmail prefetches with ends so; when a person opens the mail there, the agent names `GoogleImageProxy`.
const GMAIL_PREFETCH: &str = "Edge/12.246 Mozilla/5.0";

/// Whether a program acted on its own.
pub fn is_machine(agent: &str) -> bool {
    let agent = agent.trim();
    let lower = agent.to_lowercase();
    agent == APPLE_PREFETCH || agent.ends_with(GMAIL_PREFETCH) || MACHINES.iter().any(|part| lower.contains(part))
}

/// mobile, tablet or desktop; `None` when the agent does not tell, as behind the image proxies of mail providers.
pub fn device(agent: &str) -> Option<&'static str> {
    let lower = agent.to_lowercase();
    let is = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
    if is(&["imageproxy", "yahoomailproxy"]) || is_machine(agent) {
        None
    } else if is(&["ipad", "tablet", "kindle"]) || (is(&["android"]) && !is(&["mobile"])) {
        Some("tablet")
    } else if is(&["iphone", "ipod", "mobile", "android"]) {
        Some("mobile")
    } else if is(&["windows nt", "macintosh", "x11", "cros"]) {
        Some("desktop")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_told_apart() {
        for (agent, machine, on) in [
            ("Mozilla/5.0", true, None),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/42.0 Safari/537.36 Edge/12.246 Mozilla/5.0",
                true,
                None,
            ),
            ("Mozilla/5.0 (compatible; BarracudaCentral)", true, None),
            (
                "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
                false,
                None,
            ),
            ("YahooMailProxy; https://help.yahoo.com/", false, None),
            (
                "Mozilla/5.0 (iPad; CPU OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
                false,
                Some("tablet"),
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; SM-X700) AppleWebKit/537.36 Chrome/120 Safari/537.36",
                false,
                Some("tablet"),
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 Chrome/120 Mobile Safari/537.36",
                false,
                Some("mobile"),
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15",
                false,
                Some("desktop"),
            ),
            ("", false, None),
        ] {
            assert_eq!((is_machine(agent), device(agent)), (machine, on), "{agent}");
        }
    }
}
