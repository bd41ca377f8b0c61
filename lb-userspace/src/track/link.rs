//! Carriers of interfaces, as the kernel tells them.
//!
//! One task for all trackers of the type. When the kernel's socket fails, every carrier counts as lost until it could be
//! opened again: a tracker that cannot see must not vouch for anything.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::sleep;

use super::Voice;
use crate::netlink::LinkWatch;

/// Between two attempts to open the socket.
const RETRY: Duration = Duration::from_secs(1);

pub(super) async fn watch(mut trackers: Vec<(String, Voice)>) {
    let names: Vec<String> = trackers.iter().map(|(name, _)| name.clone()).collect();
    loop {
        let failed = match LinkWatch::open(names.clone()) {
            Ok(mut links) => loop {
                match links.next().await {
                    Ok(seen) => tell(&mut trackers, &seen),
                    Err(e) => break e,
                }
            },
            Err(e) => e,
        };
        for (_, voice) in &mut trackers {
            voice.say(false, format!("{failed:#}"));
        }
        sleep(RETRY).await;
    }
}

fn tell(trackers: &mut [(String, Voice)], seen: &BTreeMap<String, bool>) {
    for (name, voice) in trackers {
        match seen.get(name) {
            Some(true) => voice.say(true, ""),
            Some(false) => voice.say(false, format!("{name} has no carrier")),
            None => voice.say(false, format!("there is no interface {name}")),
        };
    }
}
