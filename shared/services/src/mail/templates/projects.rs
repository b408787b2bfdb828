//! Projects that want a creator.

use serde::Deserialize;

use super::date::Date;
use super::line::{Line, Name};
use super::{Brief, InBrief, mail};

/// A brand asks this creator.
#[derive(Deserialize)]
pub(super) struct Invitation {
    #[serde(default)]
    creator_name: Name,
    project_name: Line,
    brand_name: Line,
    project_url: String,
    budget_range: Option<Line>,
    timeline: Option<Line>,
    brief_excerpt: Option<String>,
    response_deadline: Option<Date>,
    inviter_name: Option<Line>,
    role: Option<Line>,
}

mail!(
    Invitation,
    "projects/project-invitation.html",
    "projects/project-invitation.txt",
    |mail, _| { format!("Project invitation: {}", mail.project_name) }
);

/// A project fits this creator.
#[derive(Deserialize)]
pub(super) struct Match {
    #[serde(default)]
    creator_name: Name,
    project_name: Line,
    brand_name: Line,
    project_description: String,
    project_url: String,
    budget_range: Option<Line>,
}

mail!(
    Match,
    "projects/project-match-notification.html",
    "projects/project-match-notification.txt",
    |mail, _| { format!("New project opportunity: {}", mail.project_name) }
);

impl InBrief for Match {
    fn in_brief(&self) -> Brief {
        Brief {
            title: format!("New project opportunity: {}", self.project_name),
            summary: format!(
                "{} is looking for a creator like you: {}",
                self.brand_name, self.project_description
            ),
            url: self.project_url.clone(),
        }
    }
}
