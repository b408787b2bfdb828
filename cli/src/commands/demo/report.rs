//! What happened, as a person wants to see it.

use chrono::TimeDelta;
use console::{style, truncate_str};

use super::facts::{Count, Facts, Runs, Spread};
use super::wire::{DeadLetter, Mail};
use crate::commands::runs::duration;

/// Lines of the mail that is shown.
const LINES: usize = 8;

const NEXT: [(&str, &str); 7] = [
    ("cargo jobs status", "queues, functions, dead letters, last runs"),
    (
        "cargo jobs runs notification-delivery",
        "every run, and what became of it",
    ),
    (
        "cargo jobs runs notification-delivery --status dead",
        "the bad message again",
    ),
    ("cargo jobs logs notification-delivery", "what the function said"),
    (
        "cargo jobs runs asset-preview-generation",
        "what was cut out of the film, and when",
    ),
    (
        "source target/local/env",
        "DATABASE_URL, AWS_ENDPOINT_URL, … for your own tools",
    ),
    ("cargo jobs down", "stop it all"),
];

/// Coloured when the standard output is a terminal.
pub(super) fn render(facts: &Facts, width: usize) -> String {
    let total = |counts: &[Count]| counts.iter().map(|count| count.count).sum();
    let mut text = String::new();
    section(
        &mut text,
        facts.in_app,
        &format!("IN THE APP, of {}", facts.notifications),
        &[],
    );
    for (title, counts) in [
        ("MAILED, by template", &facts.mailed),
        ("KEPT FOR A DIGEST", &facts.kept),
        ("MAILED LATER", &facts.later),
        ("NOT MAILED", &facts.refused),
    ] {
        if !counts.is_empty() {
            section(&mut text, total(counts), title, counts);
        }
    }
    if let Some(mail) = &facts.sample {
        heading(&mut text, "ONE OF THE MAILS");
        sample(&mut text, mail, width);
    }
    for letter in &facts.dead_letters {
        heading(&mut text, "THE BAD MESSAGE");
        dead_letter(&mut text, letter);
    }
    heading(&mut text, "A CLIP");
    field(&mut text, "uploaded", &facts.clip.film.line());
    field(&mut text, "came back", &facts.clip.preview.line());
    heading(&mut text, "RUNS AND TIMES");
    runs(&mut text, &facts.runs);
    heading(&mut text, "CHECKED");
    for check in &facts.checks {
        let mark = if check.holds {
            style("✓").green()
        } else {
            style("✗").red().bold()
        };
        line(&mut text, &format!("  {mark} {}", check.what));
    }
    heading(&mut text, "WHERE TO LOOK NEXT");
    for (command, why) in NEXT {
        line(
            &mut text,
            &format!("  {}  {}", style(format!("{command:51}")).cyan(), style(why).dim()),
        );
    }
    text
}

fn line(text: &mut String, content: &str) {
    text.push_str(content.trim_end());
    text.push('\n');
}

fn heading(text: &mut String, title: &str) {
    line(text, &format!("\n{}", style(title).bold()));
}

fn section(text: &mut String, total: i64, title: &str, counts: &[Count]) {
    line(
        text,
        &format!("{:>5}  {}", style(total).bold().green(), style(title).bold()),
    );
    for Count { count, what } in counts {
        line(text, &format!("{count:>12}  {what}"));
    }
}

fn sample(text: &mut String, mail: &Mail, width: usize) {
    field(text, "to", &mail.to.join(", "));
    field(text, "subject", &mail.subject);
    text.push('\n');
    // What follows the dashes is the same in every mail.
    let body = mail.body_text.split("\n--\n").next().unwrap_or_default();
    for content in body.trim_end().lines().take(LINES) {
        let content = truncate_str(content, width.saturating_sub(4), "…");
        line(text, &format!("  {} {content}", style("│").dim()));
    }
}

fn dead_letter(text: &mut String, letter: &DeadLetter) {
    let attribute = |name: &str| letter.attributes.get(name).map_or("", String::as_str);
    field(text, "body", &letter.body);
    field(text, "reason", attribute("reason"));
    field(text, "run key", attribute("runKey"));
    field(text, "now in", &letter.queue);
}

fn runs(text: &mut String, runs: &Runs) {
    let Runs {
        count,
        attempts,
        crashes,
        dead,
        ..
    } = runs;
    let crashes = match crashes {
        0 => "no crash".to_owned(),
        crashes => format!("{crashes} crashes"),
    };
    field(
        text,
        "runs",
        &format!("{count} in {attempts} attempts, {crashes}, {dead} dead"),
    );
    if let Some(first) = runs.first {
        field(
            text,
            "first mail",
            &format!("{} from the queue to SES, with nothing else to do", seconds(first)),
        );
    }
    let spread = |Spread { median, most }| format!("{} in the median, {} for 95 %", seconds(median), seconds(most));
    for (name, times, what) in [
        ("in the app", runs.in_app, ", from the queue"),
        ("mailed", runs.mailed, ", from the queue to SES"),
        ("a run takes", runs.took, ""),
    ] {
        if let Some(times) = times {
            field(text, name, &(spread(times) + what));
        }
    }
    if let Some(pace) = runs.pace {
        // Near the limit it was the limit that everything waited for.
        let why = if pace > 0.8 * runs.allowed {
            ", which the runs wait for"
        } else {
            ""
        };
        field(
            text,
            "pace",
            &format!("{pace:.1} mails a second; SES allows {} here{why}", runs.allowed),
        );
    }
}

fn field(text: &mut String, name: &str, value: &str) {
    line(text, &format!("  {}  {value}", style(format!("{name:11}")).dim()));
}

fn seconds(seconds: f64) -> String {
    duration(TimeDelta::milliseconds((seconds * 1000.0) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::demo::clip::tests::clip;
    use crate::commands::demo::facts::Check;

    fn counts(counts: &[(i64, &str)]) -> Vec<Count> {
        let count = |&(count, what): &(i64, &str)| Count {
            count,
            what: what.into(),
        };
        counts.iter().map(count).collect()
    }

    #[test]
    fn the_report_reads_from_what_happened_to_where_to_look() {
        console::set_colors_enabled(false);
        let facts = Facts {
            notifications: 264,
            in_app: 263,
            mailed: counts(&[(30, "notification"), (2, "new-message")]),
            kept: counts(&[(16, "for the daily digest")]),
            refused: counts(&[(4, "low priority")]),
            later: Vec::new(),
            sample: Some(Mail {
                message_id: "m1".into(),
                to: vec!["ada@x.demo.test".into()],
                subject: "Payout confirmed".into(),
                body_text: "Hi Ada,\n\nWe have sent a long line.\n\n--\nYES GODDESS".into(),
            }),
            dead_letters: vec![DeadLetter {
                queue: "yg-x-dlq".into(),
                body: "{}".into(),
                attributes: [("reason".into(), "no id".into()), ("runKey".into(), "demo-1".into())].into(),
            }],
            clip: clip(),
            runs: Runs {
                count: 266,
                attempts: 267,
                crashes: 0,
                dead: 1,
                took: None,
                in_app: Some(Spread {
                    median: 0.012,
                    most: 1.25,
                }),
                mailed: None,
                first: Some(0.2),
                pace: Some(13.3),
                allowed: 14.0,
            },
            checks: vec![
                Check {
                    holds: false,
                    what: "all are in the app".into(),
                },
                Check {
                    holds: true,
                    what: "nobody got a mail twice".into(),
                },
            ],
        };
        let text = render(&facts, 24);
        let (told, next) = text.split_once("WHERE TO LOOK NEXT\n").unwrap();
        assert_eq!(
            told,
            "  263  IN THE APP, of 264
   32  MAILED, by template
          30  notification
           2  new-message
   16  KEPT FOR A DIGEST
          16  for the daily digest
    4  NOT MAILED
           4  low priority

ONE OF THE MAILS
  to           ada@x.demo.test
  subject      Payout confirmed

  │ Hi Ada,
  │
  │ We have sent a long…

THE BAD MESSAGE
  body         {}
  reason       no id
  run key      demo-1
  now in       yg-x-dlq

A CLIP
  uploaded     14.0 s, 1280x720, h264 and aac in video/mp4, 5000000 bytes: assets/demo-film/0123456789ab/original.mp4
  came back    10.0 s, 1280x720, h264 and aac in video/mp4, 1200000 bytes: derived/demo-film/0123456789ab-v1/preview.mp4

RUNS AND TIMES
  runs         266 in 267 attempts, no crash, 1 dead
  first mail   200 ms from the queue to SES, with nothing else to do
  in the app   12 ms in the median, 1.2 s for 95 %, from the queue
  pace         13.3 mails a second; SES allows 14 here, which the runs wait for

CHECKED
  ✗ all are in the app
  ✓ nobody got a mail twice

"
        );
        assert_eq!(next.lines().count(), NEXT.len());
    }
}
