use super::*;
use crate::control::testing::config;

/// Services with these backends, by the last number of their addresses.
fn file(services: &[(&str, &[u8])]) -> Config {
    let service = |(i, (name, backends)): (usize, &(&str, &[u8]))| {
        let backends: Vec<_> = backends
            .iter()
            .map(|b| format!("{{ name = \"d{b}\", address = \"172.18.1.{b}:3306\" }}"))
            .collect();
        format!(
            "[service.{name}]\nlisten = \"172.18.0.201:{}\"\nbackend = [{}]\ncheck = {{ type = \"tcp\" }}\n",
            3306 + i,
            backends.join(", ")
        )
    };
    config(&services.iter().enumerate().map(service).collect::<String>())
}

fn nobody() -> InUse {
    InUse::default()
}

#[test]
fn whoever_stays_keeps_the_number_and_whoever_is_new_gets_one_that_nobody_had() {
    let old = file(&[("a", &[1, 2]), ("b", &[3])]);
    let numbers = Numbers::of(&old);
    assert_eq!(
        (numbers.services(), numbers.backends(0), numbers.backends(1)),
        (&[0, 1][..], &[0, 1][..], &[2][..])
    );
    let new = file(&[("c", &[9]), ("b", &[8, 3]), ("a", &[2])]);
    let next = numbers.follow(&old, &new, nobody).unwrap();
    assert_eq!(next.services(), [2, 1, 0]);
    assert_eq!([next.backends(0), next.backends(1), next.backends(2)], [&[3][..], &[4, 2], &[1]]);
    assert_eq!((next.place(2), next.place(0)), (Some((1, 1)), None));
    // The one that went comes back: another number, for its flows may have the old one.
    let last = next.follow(&new, &old, nobody).unwrap();
    assert_eq!((last.services(), last.backends(0), last.backends(1)), (&[0, 1][..], &[5, 1][..], &[2][..]));
    assert_eq!(last.by_service(["a", "b"]), ["a", "b"]);
    assert_eq!(last.by_backend([10, 20, 30]), [0, 20, 30, 0, 0, 10]);
}

#[test]
fn another_address_is_another_backend() {
    let old = file(&[("a", &[1])]);
    let mut new = old.clone();
    new.services[0].backends[0].addr.set_port(3307);
    assert_eq!(Numbers::of(&old).follow(&old, &new, nobody).unwrap().backends(0), [1]);
    new = old.clone();
    new.services[0].backends[0].weight = 7;
    assert_eq!(Numbers::of(&old).follow(&old, &new, nobody).unwrap().backends(0), [0]);
}

#[test]
fn a_number_is_given_again_only_once_no_flow_has_it() {
    let (one, two) = (file(&[("a", &[1])]), file(&[("a", &[2])]));
    let (mut now, mut other) = (&one, &two);
    let mut numbers = Numbers::of(now);
    // Number 0 belongs to a flow that outlives all of this.
    let in_use = || InUse { backends: [0].into(), ..InUse::default() };
    let mut seen = vec![0];
    for _ in 0..3 * MAX_BACKENDS {
        numbers = numbers.follow(now, other, in_use).unwrap();
        (now, other) = (other, now);
        let number = numbers.backend(0, 0);
        assert!(number != 0 && (number as usize) < MAX_BACKENDS);
        assert_ne!(seen.last(), Some(&number), "never the number that another has had until now");
        seen.push(number);
    }
    let all = || InUse { backends: (0..MAX_BACKENDS as u32).collect(), ..InUse::default() };
    assert_eq!(numbers.follow(now, other, all), Err(Full::Backends));
}

#[test]
fn routers_keep_their_numbers_whatever_is_put_before_them_and_a_following_daemon_has_the_same() {
    let with = |names: &[&str]| {
        let mut config = file(&[]);
        let router = config.vrrp[0].clone();
        let of = |name: &&str| VirtualRouter { name: (*name).into(), ..router.clone() };
        config.vrrp = names.iter().map(of).collect();
        config
    };
    let (one, two, other) = (with(&["v"]), with(&["w", "v"]), with(&["w", "x"]));
    let numbers = Numbers::of(&one).follow(&one, &two, nobody).unwrap();
    assert_eq!((numbers.routers(), numbers.place_of_router(1)), (&[1, 0][..], Some(0)));
    let next = numbers.follow(&two, &other, nobody).unwrap();
    assert_eq!(
        (next.routers(), next.place_of_router(0)),
        (&[1, 2][..], None),
        "nobody gets the one that went"
    );
    let known = |r: &VirtualRouter| (r.name == "w").then_some(1);
    let restored = Numbers::restored(next.fresh(), &two, |_| None, |_, _| None, known).unwrap();
    assert_eq!(restored.routers(), [1, 3]);
    // All were given out once: one that no connection has is given again.
    let full = Numbers { fresh: Fresh { routers: MAX_ROUTERS as u32, ..numbers.fresh() }, ..numbers };
    let in_use = || InUse { routers: (1..5).collect(), ..InUse::default() };
    assert_eq!(full.follow(&two, &other, in_use).unwrap().routers(), [1, 5]);
    let all = || InUse { routers: (0..MAX_ROUTERS as u32).collect(), ..InUse::default() };
    assert_eq!(full.follow(&two, &other, all), Err(Full::Routers));
}
