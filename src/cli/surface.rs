//! What holds for every option of every command, so that no command has to say it: the environment
//! variable `GEN_...`, the spelling with underscores, negative numbers, and a short help that fits a screen.

use clap::builder::FalseyValueParser;
use clap::{Arg, ArgAction, Command, CommandFactory};

use super::Cli;

/// The whole command line.
#[must_use]
pub fn command() -> Command {
    let mut command = deep(Cli::command());
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    // Built, global options are there in every command, and the short help can leave them out.
    command.build();
    for name in &names {
        command = command.mut_subcommand(name, short);
    }
    command
}

/// What holds for every option, in a command and in all below it.
fn deep(command: Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    names.iter().fold(command.mut_args(everywhere), |command, name| command.mut_subcommand(name, deep))
}

/// A short help with the command's own options only.
fn short(command: Command) -> Command {
    let text = command.get_after_help().cloned().unwrap_or_default();
    let globals = "Global options (--device, --dtype, --threads, --json, -q, -v, ...): `gen -h`";
    command
        .after_help(format!("{text}\n\n{globals}"))
        .after_long_help(text)
        .mut_args(|arg| if arg.is_global_set() { arg.hide_short_help(true) } else { arg })
}

fn everywhere(arg: Arg) -> Arg {
    let Some(long) = arg.get_long().map(str::to_owned) else { return arg };
    if matches!(
        arg.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    ) {
        return arg;
    }
    let underscored = long.replace('-', "_");
    let known = arg.get_all_aliases().unwrap_or_default().contains(&underscored.as_str());
    let arg = if underscored == long || known { arg } else { arg.alias(underscored.clone()) };
    let arg = match arg.get_env() {
        Some(_) => arg,
        None => arg.env(format!("GEN_{}", underscored.to_uppercase())),
    };
    match arg.get_action() {
        ArgAction::SetTrue => arg.value_parser(FalseyValueParser::new()),
        ArgAction::Set | ArgAction::Append => arg.allow_negative_numbers(true),
        _ => arg,
    }
    .hide_env(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }
}
