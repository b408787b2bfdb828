//! What `up` shows while it works: a spinner per step on a terminal, plain lines anywhere else.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

const LABEL_WIDTH: usize = 12;

/// Steps that may run side by side, each with a line of its own.
pub(crate) struct Progress {
    bars: MultiProgress,
    terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            bars: MultiProgress::with_draw_target(target),
            terminal,
        }
    }

    pub(crate) fn step(&self, label: &'static str) -> Step {
        let style = ProgressStyle::with_template("{spinner:.cyan} {prefix} {wide_msg:.dim}");
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_prefix(format!("{label:LABEL_WIDTH$}"));
        bar.enable_steady_tick(Duration::from_millis(100));
        Step {
            label,
            bar,
            bars: self.bars.clone(),
            terminal: self.terminal,
            started: Instant::now(),
        }
    }
}

/// One thing that is being made ready. Dropped before [`Step::done`], it shows as not finished.
pub(crate) struct Step {
    label: &'static str,
    bar: ProgressBar,
    bars: MultiProgress,
    terminal: bool,
    started: Instant,
}

impl Step {
    /// Shows what goes on right now; only a terminal sees it.
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.bar.set_message(text.into());
    }

    /// Says something that stays on the screen: what is installed, and why.
    pub(crate) fn say(&self, text: &str) {
        self.print(' ', text);
    }

    pub(crate) fn done(self, detail: &str) {
        let took = self.started.elapsed();
        let took = if took < Duration::from_secs(1) {
            String::new()
        } else {
            format!(" ({:.1} s)", took.as_secs_f32())
        };
        self.bar.finish_and_clear();
        self.print('✓', &format!("{detail}{took}"));
    }

    fn print(&self, mark: char, text: &str) {
        let line = format!("{mark} {:LABEL_WIDTH$} {text}", self.label);
        if self.terminal {
            // A terminal that refuses a line of progress is no reason to stop.
            let _ = self.bars.println(line);
        } else {
            eprintln!("{line}");
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.bar.is_finished() {
            self.bar.finish_and_clear();
            self.print('✗', "not finished");
        }
    }
}
