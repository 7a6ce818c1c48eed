//! Networks and folders of diffusers against diffusers itself.
//!
//! `fixtures/diffusers/` was made by `scripts/golden/diffusers_unet.py`; the weights of its networks follow
//! from their names.

#![allow(clippy::unwrap_used)] // unwrap: a failing test is to panic

mod diffusers {
    pub mod common;

    mod damaged;
    mod folders;
    mod networks;
}
