//! The `gen` program.

fn main() -> std::process::ExitCode {
    genlib::cli::main(std::env::args_os())
}
