//! `gen completions` and `gen man`: made from the same definitions as the help.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, ui::Ui};
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
    clap_complete::generate(args.shell, &mut Cli::command(), "gen", &mut script);
    Ok(ui.bytes(&script)?)
}

/// Runs `gen man`.
pub fn man(args: &ManArgs, ui: Ui) -> anyhow::Result<()> {
    let command = Cli::command();
    match &args.out {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            Ok(ui.bytes(&page)?)
        }
        Some(folder) => {
            std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, &e))?;
            clap_mangen::generate_to(command, folder).map_err(|e| Error::write(folder, &e))?;
            Ok(())
        }
    }
}
