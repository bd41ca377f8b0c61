//! In its steady state the election's thread allocates nothing: what is never asked for can neither fail nor wait.
//!
//! The allocator of this test counts what the threads called `vrrp` ask for; it is alone in its file because it counts
//! for the whole process.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use lb_tests::vrrp_net::{Net, TAKEOVER, Viplb, setup_v3, setup_v6, wait_until, with_peers};
use lb_userspace::vrrp::{RouterSetup, packet::Identity};

/// Threads that are watched; 0: none.
static WATCHED: [AtomicI32; 2] = [AtomicI32::new(0), AtomicI32::new(0)];
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let thread = nix::unistd::gettid().as_raw();
        if WATCHED.iter().any(|watched| watched.load(Relaxed) == thread) {
            ALLOCATIONS.fetch_add(1, Relaxed);
        }
        // SAFETY: the caller's layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's pointer and layout, which came from `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn vrrp_threads() -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap());
    let named =
        tasks.filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "vrrp\n"));
    named.map(|task| task.file_name().to_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn masters_and_backups_of_both_families_and_transports_allocate_nothing() {
    let Some(net) = Net::new("alloc", &[]) else { return };
    // What the kernel says of its addresses later is no steady state.
    net.link_local(&net.a);
    net.link_local(&net.b);
    let fast = Duration::from_millis(20);
    let node = |priority, peer: [u8; 4]| {
        let unicast = with_peers(setup_v3(priority, fast), &[peer.into()]);
        let identity = Identity { vrid: 52, addresses: vec![[172, 18, 0, 202].into()], ..unicast.identity };
        let unicast = RouterSetup { identity, virtual_mac: true, ..unicast };
        vec![setup_v3(priority, fast), RouterSetup { virtual_mac: true, ..setup_v6(priority, fast) }, unicast]
    };
    let high = Viplb::try_start(&net.a, node(254, [172, 18, 0, 8])).unwrap();
    let low = Viplb::try_start(&net.b, node(100, [172, 18, 0, 7])).unwrap();
    let counted = |node: &Viplb| {
        let counters = |router| node.driver.as_ref().unwrap().counters(router).unwrap();
        [0, 1, 2].map(|router| (counters(router).sent(), counters(router).received()))
    };
    let settled = || (0..3).all(|router| high.lease.is_held_by(router) && !low.lease.is_held_by(router));
    wait_until("one owner that the other hears", TAKEOVER, || {
        settled() && counted(&low).iter().all(|(_, received)| *received > 20)
    });
    // The test's own log of leases grows; the threads' memory must not.
    high.lease.reserve();
    low.lease.reserve();
    for (watched, thread) in WATCHED.iter().zip(vrrp_threads()) {
        watched.store(thread, Relaxed);
    }
    let before = (counted(&high), counted(&low));
    let allocations = ALLOCATIONS.load(Relaxed);
    wait_until("fifty more adverts of each router, sent and heard", TAKEOVER, || {
        (0..3).all(|router| {
            counted(&high)[router].0 > before.0[router].0 + 50
                && counted(&low)[router].1 > before.1[router].1 + 50
        })
    });
    let allocated = ALLOCATIONS.load(Relaxed) - allocations;
    assert!(WATCHED.iter().all(|watched| watched.load(Relaxed) != 0), "both threads are watched");
    assert!(settled());
    assert_eq!(allocated, 0);
}
