//! Logging: `tracing` to standard error; journald and `docker logs` take it from there.

use lb_common::reason::Reason;
use tracing_subscriber::EnvFilter;

/// Sets up logging for the daemon. `RUST_LOG` overrides the level.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Fails only if somebody (a test) has set one up already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}

/// Puts words to the numbers that the packet programs log: `REASON IFINDEX SOURCE DESTINATION`.
pub struct DatapathLog;

impl log::Log for DatapathLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = record.args().to_string();
        let (number, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let reason = number.parse().ok().and_then(Reason::of);
        match reason {
            Some(r) => tracing::info!("datapath: {} {rest}", r.word()),
            None => tracing::info!("datapath: {text}"),
        }
    }

    fn flush(&self) {}
}
