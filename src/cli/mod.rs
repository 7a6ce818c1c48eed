//! The command line: one file per subcommand; the only place that prints.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the program with the arguments `args` (the first is the program's name).
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let _ = args;
    ExitCode::SUCCESS
}
