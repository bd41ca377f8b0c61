//! What the kernel's verifier makes of the loaded programs.

use lb_tests::packets::world;
use lb_tests::pair::Pair;

/// Half of the verifier's limit (1,000,000 since Linux 5.2): compilers and verifiers differ from release to release.
const SANE: u32 = 500_000;

#[test]
fn the_programs_stay_far_from_the_verifiers_limit() {
    let mut p = Pair::new(&world(3));
    for (name, instructions) in p.kernel().verified().expect("program info") {
        let instructions = instructions.expect("the kernel counts them since Linux 5.16");
        println!("{name}: {instructions} instructions verified");
        assert!((1..SANE).contains(&instructions), "{name}: {instructions}");
    }
}
