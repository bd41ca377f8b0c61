//! VRRP's time-outs as arithmetic (RFC 3768 §6.1, RFC 9568 §6.1).
//!
//! The skew makes higher priorities time out first. In version 2 it is a fraction of a *second*, whatever the
//! interval; version 3 scales it by the master's interval, so that it stays a fraction of a short one too. Called by
//! `router` and the status display.

use std::time::Duration;

use super::packet::Version;

/// Adverts that may go missing before the master counts as gone.
const MISSED_ADVERTS: u32 = 3;

/// Skew_Time: (256 − priority) / 256 of a second in version 2, of the master's interval in version 3.
pub fn skew(version: Version, priority: u8, master_int: Duration) -> Duration {
    let whole = match version {
        Version::V2 => Duration::from_secs(1),
        Version::V3 => master_int,
    };
    whole * (256 - u32::from(priority)) / 256
}

/// Master_Down_Interval (Active_Down_Interval): 3 × the master's interval + Skew_Time.
pub fn master_down(version: Version, priority: u8, master_int: Duration) -> Duration {
    MISSED_ADVERTS * master_int + skew(version, priority, master_int)
}

/// Objections to a claim get an eighth of an interval (`router::contend_wait`): a thread may not be later than that.
const LATENESS_PARTS: u32 = 8;
/// What version 3's interval has room for.
const LONGEST: Duration = Duration::from_millis(40_950);

/// The shortest advertisement interval for a thread that was `late` at worst, in the version's steps; `None` when there
/// is none.
pub fn shortest_advert_int(version: Version, late: Duration) -> Option<Duration> {
    let (step, longest) = match version {
        Version::V2 => (Duration::from_secs(1), Duration::from_secs(255)),
        Version::V3 => (Duration::from_millis(10), LONGEST),
    };
    let steps = (late * LATENESS_PARTS).as_nanos().div_ceil(step.as_nanos()).max(1);
    let interval = step * u32::try_from(steps).ok()?;
    (interval <= longest).then_some(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_backup_waits_3609_ms_and_its_master_3605() {
        let second = Duration::from_secs(1);
        assert_eq!(master_down(Version::V2, 100, second), Duration::from_nanos(3_609_375_000));
        assert_eq!(master_down(Version::V2, 101, second), Duration::from_nanos(3_605_468_750));
    }

    #[test]
    fn in_version_2_the_skew_is_not_scaled_by_the_interval() {
        let skew_of = |advert_int: Duration| master_down(Version::V2, 100, advert_int) - 3 * advert_int;
        assert_eq!(skew_of(Duration::from_secs(1)), skew_of(Duration::from_secs(10)));
        assert_eq!(skew_of(Duration::from_secs(10)), Duration::from_nanos(609_375_000));
    }

    #[test]
    fn in_version_3_the_skew_is_a_fraction_of_the_interval() {
        let ms = Duration::from_millis;
        assert_eq!(skew(Version::V3, 1, ms(40_950)), Duration::from_nanos(40_790_039_062));
        assert_eq!(master_down(Version::V3, 100, ms(1000)), master_down(Version::V2, 100, ms(1000)));
        // Fast profile: 254 and 200 at 30 ms.
        assert_eq!(master_down(Version::V3, 254, ms(30)), Duration::from_nanos(90_234_375));
        assert_eq!(master_down(Version::V3, 200, ms(30)), Duration::from_nanos(96_562_500));
    }

    #[test]
    fn the_shortest_interval_is_eight_times_the_worst_lateness_in_the_versions_steps() {
        let (ms, us) = (Duration::from_millis, Duration::from_micros);
        for (late, shortest) in [(us(0), 10), (us(1250), 10), (us(1251), 20), (ms(12), 100)] {
            assert_eq!(shortest_advert_int(Version::V3, late), Some(ms(shortest)), "{late:?}");
            assert_eq!(shortest_advert_int(Version::V2, late), Some(ms(1000)), "{late:?}");
        }
        assert_eq!(shortest_advert_int(Version::V2, ms(126)), Some(ms(2000)));
        assert_eq!(shortest_advert_int(Version::V3, ms(5200)), None);
        assert_eq!(shortest_advert_int(Version::V3, Duration::from_secs(u64::from(u32::MAX))), None);
    }

    #[test]
    fn a_lateness_within_the_shortest_interval_fits_into_the_wait_for_objections() {
        for late in (0..1250).map(|n| Duration::from_micros(n * 8)) {
            let interval = shortest_advert_int(Version::V3, late).unwrap();
            assert!(late <= super::super::router::contend_wait(interval), "{late:?}");
        }
    }

    #[test]
    fn a_higher_priority_never_waits_longer() {
        for version in [Version::V2, Version::V3] {
            for priority in 0..u8::MAX {
                let skew = |priority| skew(version, priority, Duration::from_millis(10));
                assert!(skew(priority) > skew(priority + 1));
            }
        }
    }
}
