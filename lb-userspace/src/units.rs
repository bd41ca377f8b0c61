//! Quantities as people read them.

/// A duration in its largest fitting unit: `42s`, `3m`, `5h`, `2d`.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A number of bytes: `0 B`, `1.5 kB`, `20.0 MB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64;
    let mut unit = "";
    for u in UNITS {
        value /= 1000.0;
        unit = u;
        if value < 999.95 {
            break;
        }
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_short() {
        assert_eq!([age(5), age(119), age(120), age(7200), age(200_000)], ["5s", "119s", "2m", "2h", "2d"]);
        assert_eq!([bytes(999), bytes(1500), bytes(20_000_000)], ["999 B", "1.5 kB", "20.0 MB"]);
    }
}
