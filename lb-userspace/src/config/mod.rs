//! `viplb.toml`: read the file, report every mistake in it, hand out a checked [`model::Config`].

pub mod model;
