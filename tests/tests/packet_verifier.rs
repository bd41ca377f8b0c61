//! What the kernel's verifier makes of the loaded programs: instructions looked at, and stack.
//!
//! The kernel tells the instructions. The stack it works out for itself and keeps: here it is read off the loaded
//! instructions as bpftool shows them, function by function, and added up along the longest chain of calls as the verifier
//! does.

use std::{collections::BTreeMap, process::Command};

use aya::util::KernelVersion;
use lb_tests::{packets::world, pair::Pair, proc};

/// Half of the verifier's limit (1,000,000 since Linux 5.2): compilers and verifiers differ from release to release.
const INSTRUCTIONS: u32 = 500_000;
/// What holds so far where the verifier recognises fewer states as seen: 6.1 looks at 558,000 for `viplb_fragments`.
const INSTRUCTIONS_OLD: u32 = 600_000;
/// The verifier's limit for a chain of calls, bytes.
const STACK_LIMIT: u32 = 512;
/// Half of it is what we want. What holds so far: `viplb_errors` and `viplb_fragments` are the deepest.
const STACK: u32 = 480;
/// What the verifier rounds each function's part up to (16 since Linux 6.8, where the machine's own code is made).
const ROUND: u32 = 32;

#[test]
fn the_programs_stay_far_from_the_verifiers_limit() {
    let old = KernelVersion::current().expect("a version") < KernelVersion::new(6, 6, 0);
    let most = if old { INSTRUCTIONS_OLD } else { INSTRUCTIONS };
    let mut p = Pair::new(&world(3));
    for (name, _, instructions) in p.kernel().verified().expect("program info") {
        let instructions = instructions.expect("the kernel counts them since Linux 5.16");
        println!("{name}: {instructions} instructions verified");
        assert!((1..most).contains(&instructions), "{name}: {instructions}");
    }
}

#[test]
fn the_programs_leave_stack_to_grow_by() {
    if proc::which("bpftool").is_none() {
        eprintln!("not run: bpftool is not installed");
        return;
    }
    let mut p = Pair::new(&world(3));
    for (name, id, _) in p.kernel().verified().expect("program info") {
        let mut bpftool = Command::new("bpftool");
        bpftool.args(["prog", "dump", "xlated", "id", &id.to_string()]);
        let functions = functions(&proc::finish(&mut bpftool).expect("bpftool shows a loaded program"));
        let stack = chain(&functions, 0);
        println!("{name}: {stack} of {STACK_LIMIT} bytes of stack in {} functions", functions.len());
        assert!((1..=STACK).contains(&stack), "{name}: {stack} bytes of stack");
    }
}

/// Bytes of stack that a function uses itself, and the first instructions of those it calls.
#[derive(Debug, Default, PartialEq, Eq)]
struct Function {
    own: u32,
    calls: Vec<u32>,
}

/// The functions of a dump by their first instructions.
fn functions(dump: &str) -> BTreeMap<u32, Function> {
    let mut functions: BTreeMap<u32, Function> = BTreeMap::new();
    let (mut at_head, mut address_in) = (true, None);
    for line in dump.lines() {
        let Some((number, text)) = instruction(line) else {
            // A function's name; lines of source begin with a semicolon.
            at_head |= line.ends_with("):");
            continue;
        };
        if std::mem::take(&mut at_head) {
            functions.insert(number, Function::default());
        }
        let mut function = functions.last_entry().expect("a function began");
        let function = function.get_mut();
        function.own = function.own.max(below_frame(text, "(r10 -").unwrap_or(0));
        if let Some(register) = address_in.take() {
            function.own = function.own.max(below_frame(text, &format!("{register} += -")).unwrap_or(0));
        }
        address_in = text.strip_suffix(" = r10").and_then(|words| words.split(' ').next_back());
        let called =
            text.split_once("call pc+").and_then(|(_, rest)| rest.split('#').next()?.parse::<u32>().ok());
        function.calls.extend(called.map(|distance| number + distance + 1));
    }
    functions
}

/// Number and text of an instruction.
fn instruction(line: &str) -> Option<(u32, &str)> {
    let (number, text) = line.trim_start().split_once(": ")?;
    Some((number.parse().ok()?, text.trim_end()))
}

/// The number behind `mark`.
fn below_frame(text: &str, mark: &str) -> Option<u32> {
    let (_, rest) = text.split_once(mark)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Stack of a function and of the deepest chain of calls below it.
fn chain(functions: &BTreeMap<u32, Function>, start: u32) -> u32 {
    let function = functions.get(&start).expect("every call leads to a function");
    let below = function.calls.iter().map(|call| chain(functions, *call)).max().unwrap_or(0);
    function.own.max(1).next_multiple_of(ROUND) + below
}

#[test]
fn the_stack_is_added_up_along_the_deepest_chain_of_calls() {
    let dump = "\
i32 entry(struct __sk_buff * ctx):
; let a = b(r10 -500);
   0: (7b) *(u64 *)(r10 -40) = r1
   1: (85) call pc+2#bpf_prog_0000000000000001_one
   2: (85) call pc+3#bpf_prog_0000000000000002_two
   3: (95) exit
void one(void):
   4: (bf) r2 = r10
   5: (95) exit
void two(void):
   6: (bf) r2 = r10
   7: (07) r2 += -100
   8: (95) exit
";
    let functions = functions(dump);
    let own = |start| functions[&start].own;
    assert_eq!([own(0), own(4), own(6)], [40, 0, 100]);
    assert_eq!(functions[&0].calls, [4, 6]);
    assert_eq!(chain(&functions, 0), 64 + 128);
}
