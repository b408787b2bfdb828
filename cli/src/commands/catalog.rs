//! `jobs catalog`

use anyhow::Result;

use crate::table;

/// List the jobs, or print every declaration with all that follows from it.
#[derive(clap::Args)]
pub(crate) struct Catalog {
    /// As `infra/catalog.json` holds it.
    #[arg(long)]
    json: bool,
}

impl Catalog {
    pub(crate) fn run(&self) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(&jobs::manifest())?);
            return Ok(());
        }
        let rows: Vec<_> = jobs::catalog::ALL.iter().map(|spec| row(spec)).collect();
        print!(
            "{}",
            table::render(["DOMAIN", "JOB", "WOKEN BY", "AT A TIME", "WHAT IT DOES"], &rows)
        );
        Ok(())
    }
}

fn row(spec: &jobs::Spec) -> [String; 5] {
    let schedules: Vec<_> = spec
        .schedules
        .iter()
        .map(|schedule| format!("cron({})", schedule.cron.fields))
        .collect();
    let woken_by = if spec.awaits_function {
        "no function yet".to_owned()
    } else if schedules.is_empty() {
        "queue".to_owned()
    } else {
        schedules.join(", ")
    };
    [
        spec.domain().to_owned(),
        spec.name().to_owned(),
        woken_by,
        format!("{} × {}", spec.concurrency, spec.batch),
        spec.about.to_owned(),
    ]
}
