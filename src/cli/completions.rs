//! `gen completions` and `gen man`: made from the same definitions as the help.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;
use serde_json::{Value, json};

use super::{surface, ui::Ui};
use crate::error::Error;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    gen completions bash > ~/.local/share/bash-completion/completions/gen\n  \
    gen completions zsh > ~/.zfunc/_gen\n  \
    gen completions fish > ~/.config/fish/completions/gen.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page, or write one for every command
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  gen man | man -l -\n  gen man --out ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Write gen.1, gen-sample.1, ... to this folder instead
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs `gen completions`.
pub fn completions(args: &CompletionsArgs, ui: Ui) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut surface::command(), "gen", &mut script);
    text(&script, &json!({"shell": args.shell.to_string()}), "script", ui)
}

/// Runs `gen man`.
pub fn man(args: &ManArgs, ui: Ui) -> anyhow::Result<()> {
    let command = surface::command();
    match &args.out {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            text(&page, &json!({}), "page", ui)
        }
        Some(folder) => {
            std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, &e))?;
            clap_mangen::generate_to(command, folder).map_err(|e| Error::write(folder, &e))?;
            Ok(ui.result(&json!({"out": folder.display().to_string()}))?)
        }
    }
}

/// A text as it is, or with `--json` under `key` of the object.
fn text(bytes: &[u8], object: &Value, key: &str, ui: Ui) -> anyhow::Result<()> {
    if !ui.json {
        return Ok(ui.bytes(bytes)?);
    }
    let mut object = object.clone();
    object[key] = json!(String::from_utf8_lossy(bytes));
    Ok(ui.result(&object)?)
}
