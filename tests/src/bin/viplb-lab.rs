//! viplb-lab
fn main() {}
