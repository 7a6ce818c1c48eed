//! The error type of the whole library.
//!
//! An error is what a person reads: `error: what (where): why`, and a hint: "cannot read
//! (model.safetensors): no such file or directory". Its [`Kind`] decides the
//! exit code of the program. Errors of libtorch are cut down to their first sentence; the C++ stack
//! that follows it stays in [`Error::detail`] for `-vv`.

use std::fmt;
use std::path::Path;

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, as far as the caller's next move is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The run failed: non-finite values, out of memory, a write error, a threshold missed.
    Run,
    /// The command line or the recipe is wrong.
    Usage,
    /// Input data is missing, unreadable or of the wrong form.
    Data,
    /// A model is missing, mis-shaped or unknown.
    Model,
    /// The device asked for cannot be used.
    Device,
    /// A signal stopped the run after its state was saved; the signal's number.
    Interrupted(i32),
}

impl Kind {
    /// The exit code of the program for this kind.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Run => 1,
            Kind::Usage => 2,
            Kind::Data => 3,
            Kind::Model => 4,
            Kind::Device => 5,
            Kind::Interrupted(signal) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(2)),
        }
    }
}

/// One failure, ready to be shown in one line.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    what: String,
    place: Option<String>,
    why: Option<String>,
    hint: Option<String>,
    detail: Option<String>,
}

impl Error {
    /// An error of `kind` that says `what` (lower case, no full stop).
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Error(Box::new(Inner { kind, what: what.into(), place: None, why: None, hint: None, detail: None }))
    }

    /// A wrong flag, a wrong recipe key or a combination that is not defined.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what)
    }

    /// Input data that cannot be used.
    pub fn data(what: impl Into<String>) -> Self {
        Self::new(Kind::Data, what)
    }

    /// A model that cannot be used.
    pub fn model(what: impl Into<String>) -> Self {
        Self::new(Kind::Model, what)
    }

    /// A device that cannot be used.
    pub fn device(what: impl Into<String>) -> Self {
        Self::new(Kind::Device, what)
    }

    /// A run that failed.
    pub fn run(what: impl Into<String>) -> Self {
        Self::new(Kind::Run, what)
    }

    /// A non-finite value in `what` at `step`.
    pub fn non_finite(what: &str, step: u64) -> Self {
        Self::run(format!("{what} is not finite at step {step}"))
    }

    /// A tensor `name` that has another shape than it must have.
    pub fn shape(name: &str, expected: &[i64], got: &[i64]) -> Self {
        Self::model(format!("tensor `{name}`"))
            .why(format!("expected shape {expected:?}, got {got:?}"))
            .hint("the options of the network must be those it was trained with")
    }

    /// A failed read of `path`.
    pub fn read(path: &Path, source: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let error = Self::data("cannot read").at(path.display()).why(io_reason(source));
        match source.kind() {
            ErrorKind::NotFound => error.hint(first_missing(path)),
            ErrorKind::PermissionDenied => error.hint("you may not read it; look at its permissions"),
            ErrorKind::IsADirectory => error.hint("name a file in that folder"),
            _ => error,
        }
    }

    /// A failed write of `path`.
    pub fn write(path: &Path, source: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let error = Self::run("cannot write").at(path.display()).why(io_reason(source));
        error.hint(match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space, or write elsewhere",
            ErrorKind::IsADirectory => "name a file, not a folder",
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => "a file is where a folder must be",
            _ => "write to a folder that is there and that you may write to",
        })
    }

    /// Names the place (a file, a flag, a recipe key) unless one is named already.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.0.place.get_or_insert_with(|| place.to_string());
        self
    }

    /// Says why, unless that is said already.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.0.why.get_or_insert_with(|| why.into());
        self
    }

    /// Adds what the user can do about it, unless a hint is there already.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Turns the error into one of another kind (the same fault in a model file and in a data file).
    #[must_use]
    pub fn kinded(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The hint, if there is one.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The long text (C++ stack) behind a libtorch error.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// The error for a message of libtorch: its first sentence; the rest as detail.
    #[must_use]
    pub fn torch(raw: &str) -> Self {
        let raw = raw.trim_start_matches("Internal torch error: ").trim();
        let cut = raw.find("\nException raised from").unwrap_or(raw.len());
        let mut message: String = raw[..cut].split_whitespace().collect::<Vec<_>>().join(" ");
        // What the zip reader adds to every failure helps nobody.
        if let Some(chatter) = message.find(". This is an internal miniz error") {
            message.truncate(chatter);
        }
        let memory = ["out of memory", "DefaultCPUAllocator"].iter().any(|mark| message.contains(mark));
        let mut error = if memory {
            Self::run(format!("out of memory: {message}")).hint("use a smaller --batch, or another --device")
        } else {
            Self::run(message)
        };
        error.0.detail = Some(raw.to_owned());
        error
    }
}

/// The operating system's reason in lower case, without its error number.
#[must_use]
pub fn io_reason(source: &std::io::Error) -> String {
    let text = source.to_string();
    let text = text.find(" (os error").map_or(text.as_str(), |cut| &text[..cut]);
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        // "No such file", but "I/O error".
        (Some(first), Some(second)) if second.is_lowercase() => first.to_lowercase().chain(chars).collect(),
        _ => text.to_owned(),
    }
}

/// Where a path that is not there ends to be.
fn first_missing(path: &Path) -> String {
    let mut missing = path;
    while let Some(parent) = missing.parent().filter(|p| !p.as_os_str().is_empty()) {
        if parent.exists() {
            let name = missing.file_name().unwrap_or(missing.as_os_str());
            return format!("`{}` is there, but has no `{}`", parent.display(), name.display());
        }
        missing = parent;
    }
    let here = if path.is_relative() { "; relative paths start at the current folder" } else { "" };
    format!("there is no `{}`{here}", missing.display())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        if let Some(place) = &self.0.place {
            write!(f, " ({place})")?;
        }
        if let Some(why) = &self.0.why {
            write!(f, ": {why}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        Self::torch(&error.to_string())
    }
}

/// Says where an error happened.
pub trait Context<T> {
    /// Names the place, unless the error names one already.
    ///
    /// # Errors
    /// The error itself, with its place.
    fn at(self, place: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn at(self, place: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().at(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torch_messages_lose_their_stack() {
        let raw = "Internal torch error: mat1 and mat2 cannot be multiplied (2x3 and 2x3)\n\
                   Exception raised from meta at ../aten:1 (most recent call first):\nframe #0";
        let error = Error::torch(raw);
        assert_eq!(error.to_string(), "mat1 and mat2 cannot be multiplied (2x3 and 2x3)");
        assert!(error.detail().is_some_and(|d| d.contains("frame #0")));
    }

    #[test]
    fn kinds_have_the_contract_exit_codes() {
        let codes = [Kind::Run, Kind::Usage, Kind::Data, Kind::Model, Kind::Device].map(Kind::exit_code);
        assert_eq!(codes, [1, 2, 3, 4, 5]);
        assert_eq!([Kind::Interrupted(2).exit_code(), Kind::Interrupted(15).exit_code()], [130, 143]);
    }

    #[test]
    fn the_first_place_named_stays() {
        let error = Error::data("cannot read").at("x.safetensors").at("outer").why("truncated");
        assert_eq!(error.to_string(), "cannot read (x.safetensors): truncated");
    }
}
