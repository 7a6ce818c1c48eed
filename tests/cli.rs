//! The command line as people meet it: what every wrong input says, what the help says, where output goes.
//!
//! Every topic is one transcript in `tests/snapshots`: the command, its exit code, stdout and stderr. Whatever
//! fails must say so in one line `error: what (where): why` and one line `hint: ...`; `cli::world` checks that
//! beside the snapshot.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

mod cli {
    pub mod world;

    mod aliases;
    mod audio;
    mod data;
    mod device;
    mod eval;
    mod help;
    mod model;
    mod output;
    mod recipe;
    mod resume;
    mod sample;
    mod tokens;
    mod usage;
}
