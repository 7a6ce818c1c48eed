//! What the program says: results on stdout, everything for people on stderr.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// The form of what goes to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines and bars for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether stderr is coloured.
    #[must_use]
    pub fn on(self) -> bool {
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            }
        }
    }
}

/// How a command talks.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    /// Results as one JSON object.
    pub json: bool,
    /// Nothing on stderr but warnings and errors.
    pub quiet: bool,
    /// Level of detail (`-v`, `-vv`).
    pub verbose: u8,
    /// Form of stderr.
    pub log: LogFormat,
    /// Colours on stderr.
    pub color: bool,
}

impl Ui {
    /// Whether bars may be drawn.
    #[must_use]
    pub fn terminal(&self) -> bool {
        std::io::stderr().is_terminal() && !self.quiet && self.log == LogFormat::Text
    }

    /// A line of the result on stdout; nothing with `--json`, where [`Ui::result`] is the result.
    ///
    /// # Errors
    /// Where stdout cannot be written.
    pub fn line(&self, text: impl Display) -> Result<()> {
        if self.json { Ok(()) } else { to_stdout(&format!("{text}\n")) }
    }

    /// The result as one JSON object on stdout, with `--json` only.
    ///
    /// # Errors
    /// Where stdout cannot be written.
    pub fn result(&self, value: &Value) -> Result<()> {
        if self.json { to_stdout(&format!("{value}\n")) } else { Ok(()) }
    }

    /// Bytes on stdout (an image, a completion script).
    ///
    /// # Errors
    /// Where stdout cannot be written.
    pub fn bytes(&self, bytes: &[u8]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| stdout_error(&e))
    }

    /// News for people.
    pub fn say(&self, text: impl Display) {
        if !self.quiet {
            self.log("info", &text.to_string());
        }
    }

    /// Detail for people who asked for it (`-v`).
    pub fn detail(&self, text: impl Display) {
        if self.verbose > 0 {
            self.log("debug", &text.to_string());
        }
    }

    /// Something that may spoil the result.
    pub fn warn(&self, text: impl Display) {
        match self.log {
            LogFormat::Json => self.log("warning", &text.to_string()),
            LogFormat::Text => to_stderr(&format!("{} {text}\n", self.paint("warning:", "33"))),
        }
    }

    /// The error that ends the program.
    pub fn error(&self, error: &Error) {
        match self.log {
            LogFormat::Json => to_stderr(&format!(
                "{}\n",
                json!({"level": "error", "code": error.kind().exit_code(), "message": error.to_string(),
                       "hint": error.hint_text()})
            )),
            LogFormat::Text => {
                to_stderr(&format!("{} {error}\n", self.paint("error:", "31")));
                if let Some(hint) = error.hint_text() {
                    to_stderr(&format!("{} {hint}\n", self.paint("hint:", "36")));
                }
            }
        }
        if self.verbose > 1
            && let Some(detail) = error.detail()
        {
            to_stderr(&format!("{detail}\n"));
        }
    }

    fn log(&self, level: &str, text: &str) {
        match self.log {
            LogFormat::Text => to_stderr(&format!("{text}\n")),
            LogFormat::Json => to_stderr(&format!("{}\n", json!({"level": level, "message": text}))),
        }
    }

    fn paint(&self, text: &str, code: &str) -> String {
        if self.color { format!("\x1b[1;{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A progress bar over `total` of `unit` ("img", "step").
    #[must_use]
    pub fn bar(&self, title: &'static str, total: u64, unit: &'static str) -> Bar {
        Bar::new(*self, title, total, unit)
    }
}

fn to_stdout(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| stdout_error(&e))
}

/// A closed pipe is the reader's good right: the program ends quietly.
fn stdout_error(error: &std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    Error::run("cannot write")
        .at("stdout")
        .why(crate::error::io_reason(error))
        .hint("what stdout leads to is full or closed")
}

/// Help that was not asked for.
pub(super) fn usage_help(text: &str) {
    to_stderr(text);
}

fn to_stderr(text: &str) {
    // A closed stderr leaves nobody to tell.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Progress of a long piece of work: a bar on a terminal, a line now and then elsewhere.
#[derive(Debug)]
pub struct Bar {
    ui: Ui,
    title: &'static str,
    unit: &'static str,
    total: u64,
    done: u64,
    start: Instant,
    /// Where counting began (a resumed run begins late).
    base: u64,
    bar: Option<ProgressBar>,
    last: Instant,
    note: String,
}

/// Without a terminal, lines are this far apart at least.
const QUIET_GAP: Duration = Duration::from_secs(30);

impl Bar {
    fn new(ui: Ui, title: &'static str, total: u64, unit: &'static str) -> Self {
        let bar = ui.terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("#>-"));
            bar.set_prefix(title);
            bar
        });
        let now = Instant::now();
        Bar { ui, title, unit, total, done: 0, start: now, base: 0, bar, last: now, note: String::new() }
    }

    /// Starts counting at `done` instead of 0.
    pub fn start_at(&mut self, done: u64) {
        self.base = done;
        self.done = done;
        self.start = Instant::now();
    }

    /// Adds a note behind the numbers ("loss 0.123").
    pub fn note(&mut self, note: String) {
        self.note = note;
    }

    /// Moves on to `done` of the total.
    pub fn set(&mut self, done: u64) {
        self.done = done;
        let line = self.numbers();
        if let Some(bar) = &self.bar {
            bar.set_message(line);
            bar.set_position(done);
            return;
        }
        let gap = if self.ui.log == LogFormat::Json { Duration::from_secs(1) } else { QUIET_GAP };
        if !self.ui.quiet && self.last.elapsed() >= gap {
            self.last = Instant::now();
            match self.ui.log {
                LogFormat::Text => to_stderr(&format!("{} {done}/{} {line}\n", self.title, self.total)),
                LogFormat::Json => to_stderr(&format!(
                    "{}\n",
                    json!({"event": "progress", "what": self.title, "done": done, "total": self.total,
                           "rate": self.rate(), "unit": self.unit})
                )),
            }
        }
    }

    /// Prints a line above the bar.
    pub fn say(&self, text: impl Display) {
        match &self.bar {
            Some(bar) => bar.println(text.to_string()),
            None => self.ui.say(text),
        }
    }

    /// Units a second so far.
    #[must_use]
    pub fn rate(&self) -> f64 {
        (self.done - self.base) as f64 / self.start.elapsed().as_secs_f64().max(1e-9)
    }

    fn numbers(&self) -> String {
        let rate = self.rate();
        let left = (self.total.saturating_sub(self.done)) as f64 / rate.max(1e-9);
        let note = if self.note.is_empty() { String::new() } else { format!(" {}", self.note) };
        format!("({rate:.1} {}/s, {} left){note}", self.unit, duration(left))
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Seconds as people write them.
#[must_use]
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds > 1e8 {
        return "?".to_owned();
    }
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}
