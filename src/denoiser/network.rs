//! A network with its preconditioning and time units, as a model of a process.
