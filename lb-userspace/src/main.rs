//! The `viplb` binary.
fn main() {}
