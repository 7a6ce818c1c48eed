//! What the help says.

use super::world::Transcript;

const COMMANDS: [&str; 16] = [
    "train",
    "sample",
    "eval-fid",
    "eval-audio",
    "eval-nll",
    "eval-text",
    "ref-stats",
    "convert",
    "audio",
    "plot",
    "inspect",
    "selftest",
    "bench",
    "doctor",
    "completions",
    "man",
];

#[test]
fn short_help_fits_on_a_screen_or_two() {
    let mut t = Transcript::new();
    t.works("-h");
    for command in COMMANDS {
        let output = t.works(&format!("{command} -h"));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.lines().count() <= 75, "gen {command} -h has {} lines", text.lines().count());
        assert!(text.contains("Examples:\n  gen "), "gen {command} -h has no example");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "gen {command} -h is too wide");
    }
    t.check("help-short");
}

#[test]
fn long_help_explains_everything() {
    for command in COMMANDS {
        let mut t = Transcript::new();
        let output = t.works(&format!("help {command}"));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Examples:\n  gen "), "gen help {command} has no example");
        assert!(text.contains("--device <DEVICE>"), "gen help {command} lists the global options");
        t.check(&format!("help-{command}"));
    }
}

#[test]
fn without_a_command_the_help_is_shown() {
    let output = Transcript::new().command("").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("Usage: gen [OPTIONS] <COMMAND>"));
}

#[test]
fn the_version_names_the_library_it_is_for() {
    let mut t = Transcript::new();
    t.works("--version");
    t.works("-V");
    t.check("version");
}
