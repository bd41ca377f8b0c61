//! eBPF entry points.
fn main() {}
