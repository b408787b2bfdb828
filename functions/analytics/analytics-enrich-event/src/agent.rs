//! What a user agent says of itself. Rules for what is common; the rest is a desktop without a name, which is what the aggregation needs.

use serde_json::{Value, json};

/// A program that visits the platform, and the device it runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Agent {
    pub is_bot: bool,
    pub device: &'static str,
    pub brand: Option<&'static str>,
    pub model: Option<String>,
    pub browser: Option<&'static str>,
    pub browser_version: Option<String>,
    pub os: Option<&'static str>,
    pub os_version: Option<String>,
}

/// Words of programs that nobody looks at.
const BOTS: &[&str] = &[
    "bot",
    "crawler",
    "crawling",
    "spider",
    "slurp",
    "headless",
    "lighthouse",
    "phantomjs",
    "puppeteer",
    "playwright",
    "facebookexternalhit",
    "embedly",
    "bingpreview",
    "mediapartners",
    "feedfetcher",
    "archiver",
    "scrapy",
    "python-requests",
    "python-urllib",
    "aiohttp",
    "curl/",
    "wget/",
    "httpclient",
    "okhttp",
    "go-http-client",
    "java/",
    "libwww",
    "axios/",
    "node-fetch",
    "uptime",
    "monitor",
    "pingdom",
];
/// Of which "bot" is a part without being one.
const NOT_BOTS: &[&str] = &["cubot"];

/// A token before its version, and what it stands for. The first that is found: most claim to be several.
const BROWSERS: &[(&str, &str)] = &[
    ("edg/", "Edge"),
    ("edga/", "Edge"),
    ("edgios/", "Edge"),
    ("edge/", "Edge"),
    ("opr/", "Opera"),
    ("opera/", "Opera"),
    ("samsungbrowser/", "Samsung Internet"),
    ("ucbrowser/", "UC Browser"),
    ("vivaldi/", "Vivaldi"),
    ("yabrowser/", "Yandex Browser"),
    ("fxios/", "Firefox"),
    ("firefox/", "Firefox"),
    ("crios/", "Chrome"),
    ("chromium/", "Chromium"),
    ("chrome/", "Chrome"),
    ("msie ", "Internet Explorer"),
    ("trident/", "Internet Explorer"),
];

const SYSTEMS: &[(&str, &str)] = &[
    ("windows phone ", "Windows Phone"),
    ("windows nt ", "Windows"),
    ("xbox", "Xbox OS"),
    ("playstation", "PlayStation OS"),
    ("nintendo", "Nintendo OS"),
    ("tizen ", "Tizen"),
    ("web0s", "webOS"),
    ("watch os ", "watchOS"),
    ("apple tv", "tvOS"),
    ("cpu iphone os ", "iOS"),
    ("cpu os ", "iPadOS"),
    ("cros ", "ChromeOS"),
    ("android ", "Android"),
    ("mac os x ", "macOS"),
    ("linux", "Linux"),
];

const BRANDS: &[(&str, &str)] = &[
    ("iphone", "Apple"),
    ("ipad", "Apple"),
    ("apple watch", "Apple"),
    ("apple tv", "Apple"),
    ("macintosh", "Apple"),
    ("playstation", "Sony"),
    ("xbox", "Microsoft"),
    ("nintendo", "Nintendo"),
    ("pixel", "Google"),
    ("sm-", "Samsung"),
    ("samsung", "Samsung"),
    ("huawei", "Huawei"),
    ("redmi", "Xiaomi"),
    ("xiaomi", "Xiaomi"),
    ("oneplus", "OnePlus"),
    ("moto", "Motorola"),
    ("kindle", "Amazon"),
    ("aft", "Amazon"),
    ("web0s", "LG"),
];

impl Agent {
    /// Reads a `User-Agent`.
    pub(crate) fn parse(text: &str) -> Self {
        let lower = text.to_ascii_lowercase();
        let has = |word: &str| lower.contains(word);
        let find = |list: &[(&'static str, &'static str)]| list.iter().copied().find(|(token, _)| has(token));
        let browser = match find(BROWSERS) {
            Some((token, name)) => Some((name, version(&lower, token))),
            None if has("safari/") => Some(("Safari", version(&lower, "version/"))),
            None => None,
        };
        let system = find(SYSTEMS).map(|(token, name)| (name, version(&lower, token)));
        let model = model(text);
        let (browser, browser_version) = browser.unzip();
        let (os, os_version) = system.unzip();
        Self {
            is_bot: BOTS.iter().any(|word| has(word)) && !NOT_BOTS.iter().any(|word| has(word)),
            device: device(&lower),
            brand: find(BRANDS).map(|(_, brand)| brand),
            model,
            browser,
            browser_version: browser_version.flatten(),
            os,
            os_version: os_version.flatten(),
        }
    }

    /// As `enrichment` holds it.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "type": self.device, "brand": self.brand, "model": self.model, "browser": self.browser, "browserVersion": self.browser_version,
            "os": self.os, "osVersion": self.os_version,
        })
    }
}

fn device(lower: &str) -> &'static str {
    let any = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if any(&["playstation", "xbox", "nintendo"]) {
        "console"
    } else if any(&[
        "smart-tv",
        "smarttv",
        "apple tv",
        "appletv",
        "googletv",
        "android tv",
        "web0s",
        "hbbtv",
        "bravia",
        "roku",
        "aft",
        "crkey",
    ]) {
        "tv"
    } else if any(&["watch os", "apple watch", "wear os", "; sm-r", "galaxy watch"]) {
        "wearable"
    } else if any(&["ipad", "tablet", "kindle", "silk/", "playbook"]) || any(&["android"]) && !any(&["mobile"]) {
        "tablet"
    } else if any(&["iphone", "ipod", "windows phone", "mobile", "blackberry", "opera mini"]) {
        "mobile"
    } else {
        "desktop"
    }
}

/// The number after a token; underscores are points.
fn version(lower: &str, token: &str) -> Option<String> {
    let (_, rest) = lower.split_once(token)?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_')
        .unwrap_or(rest.len());
    let version: String = rest[..end.min(32)].replace('_', ".");
    let version = version.trim_matches('.');
    (!version.is_empty()).then(|| version.to_owned())
}

/// What an Android calls itself, before its build.
fn model(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("Android ")?;
    let inside = rest.split(')').next()?;
    let parts = inside.split(';').skip(1).map(str::trim);
    let model = parts.filter(|part| !part.is_empty() && *part != "wv").last()?;
    let model = model.split(" Build/").next()?.trim();
    (!model.is_empty() && model != "K").then(|| model.chars().take(64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        let agent = Agent::parse(text);
        let with = |name: Option<&str>, version: Option<String>| {
            format!("{} {}", name.unwrap_or("-"), version.unwrap_or_default())
                .trim_end()
                .to_owned()
        };
        let browser = with(agent.browser, agent.browser_version);
        let os = with(agent.os, agent.os_version);
        let device = format!(
            "{} {}",
            agent.brand.unwrap_or("-"),
            agent.model.as_deref().unwrap_or("-")
        );
        format!(
            "{} | {browser} | {os} | {device}{}",
            agent.device,
            if agent.is_bot { " | bot" } else { "" }
        )
    }

    #[test]
    fn common_agents_are_known_for_what_they_are() {
        for (agent, expected) in [
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 Edg/126.0.2592.68",
                "desktop | Edge 126.0.2592.68 | Windows 10.0 | - -",
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15",
                "desktop | Safari 17.5 | macOS 10.15.7 | Apple -",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
                "mobile | Safari 17.5 | iOS 17.5.1 | Apple -",
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/126.0.6478.54 Mobile/15E148 Safari/604.1",
                "tablet | Chrome 126.0.6478.54 | iPadOS 16.6 | Apple -",
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; Pixel 8 Pro Build/UD1A) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36",
                "mobile | Chrome 126.0.0.0 | Android 14 | Google Pixel 8 Pro",
            ),
            (
                "Mozilla/5.0 (Linux; Android 13; SM-X700) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/25.0 Chrome/121.0.0.0 Safari/537.36",
                "tablet | Samsung Internet 25.0 | Android 13 | Samsung SM-X700",
            ),
            (
                "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
                "desktop | Firefox 127.0 | Linux | - -",
            ),
            (
                "Mozilla/5.0 (PlayStation; PlayStation 5/6.00) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/15.4 Safari/605.1.15",
                "console | Safari 15.4 | PlayStation OS | Sony -",
            ),
            (
                "Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/94.0.4606.128 Safari/537.36",
                "tv | Chrome 94.0.4606.128 | webOS | LG -",
            ),
            (
                "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
                "desktop | - | - | - - | bot",
            ),
            ("curl/8.5.0", "desktop | - | - | - - | bot"),
            (
                "Mozilla/5.0 (Linux; Android 11; CUBOT X50) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36",
                "mobile | Chrome 126.0.0.0 | Android 11 | - CUBOT X50",
            ),
        ] {
            assert_eq!(said(agent), expected, "{agent}");
        }
    }

    #[test]
    fn an_agent_that_says_nothing_is_a_desktop_without_a_name() {
        for agent in [
            "",
            "\u{0}",
            "((((",
            "Android ",
            "Mozilla/5.0 (Linux; Android 10)",
            "Version/ÄÖ Chrome/ü",
        ] {
            let agent = Agent::parse(agent);
            assert!(
                !agent.is_bot && ["desktop", "tablet"].contains(&agent.device),
                "{agent:?}"
            );
        }
    }
}
