//! The commands that are not the server, one module each. [`crate::cli`] reads their arguments, `main` calls them.
//!
//! `dev` and `check` start a gateway of their own; `request` and `control` are clients of a running one.

pub mod check;
pub mod control;
pub mod dev;
pub mod request;
pub mod stdout;
