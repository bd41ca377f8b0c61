//! The stop order, in one place: no new decisions, then the election (lease given up, priority 0 sent, so that the peer
//! takes over at once), then addresses, then programs that are told of it, then the control socket, and the packet programs last:
//! until then they swallow what still comes for the virtual addresses.
//!
//! With `--keep` another daemon follows at once: programs and maps stay, and where nobody else is heard, lease and addresses too. A peer
//! gets them as at any stop.

use std::time::Duration;

use anyhow::Result;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};

use super::{Control, Keep, discovery::Discovered, end_own_connections, kept::Kept, sync};
use crate::{
    api::StopOrder,
    vrrp::{self, BootTime},
};

/// How long programs that are told of the stop may take, all together: less than `docker stop` waits.
pub(super) const NOTIFY_LIMIT: Duration = Duration::from_secs(5);
/// How long requests on the control socket may take to end.
const API_LIMIT: Duration = Duration::from_secs(1);

/// The election takes less time to end.
pub(super) const ELECTION_LIMIT: Duration = Duration::from_secs(2);

/// How often flows are told while the election ends.
pub(super) const FLUSH: Duration = Duration::from_millis(1);

impl Control {
    /// Is to end, so that another daemon goes on.
    pub(super) fn on_stop(&mut self, order: StopOrder) {
        if let Some(program) = &order.successor {
            tracing::info!("{} goes on in this process", program.display());
        }
        tracing::info!("stopping for another daemon, which is to come within {} s", order.seconds);
        let lasts = Duration::from_secs(order.seconds.into()).min(super::kept::LONGEST);
        self.ending = Some(Keep { lasts, successor: order.successor });
    }

    /// Stops everything; goes on after a failure and reports the first. `keep`: for another daemon, within this time.
    pub(super) async fn shutdown(mut self, keep: Option<Duration>) -> Result<()> {
        self.cancel.cancel();
        let stopping = self.model.stop_notices();
        sync::pass_on(&mut self.replication, &mut self.datapath).await;
        let until = keep.map(|lasts| BootTime::now() + lasts);
        if let Some(until) = until {
            let node = self.model.config().node.name.clone();
            if let Err(e) = Kept::of(&self.model, until).write(&node) {
                tracing::warn!("the next daemon will check all backends first: {e}");
            }
            self.datapath.alive.keep(until);
        }
        if let Some(replication) = &mut self.replication {
            replication.hand_over(ELECTION_LIMIT);
        }
        let election = leave_election(self.driver, until);
        // What begins, or is established, while a successor takes over is told at once.
        while !election.is_finished() {
            sync::flush(&mut self.replication, &mut self.datapath);
            sleep(FLUSH).await;
        }
        // A thread that broke has kept nothing; the rest is to be stopped all the same.
        let kept = election.await.unwrap_or_default();
        sync::flush(&mut self.replication, &mut self.datapath);
        for change in self.model.address_removals(&kept) {
            if let Err(e) = self.netlink.remove_address(change.ifindex, change.addr).await {
                tracing::warn!("{e:#}");
            }
            end_own_connections(change.addr);
        }
        // Who still owns its addresses has not stopped.
        for notice in stopping.into_iter().filter(|_| !kept.contains(&true)) {
            self.notifier.tell(notice);
        }
        self.notifier.finish(NOTIFY_LIMIT).await;
        self.tasks.close();
        self.tasks.wait().await;
        // A client that holds a request half sent must not keep the programs attached.
        if !self.api.is_finished() && timeout(API_LIMIT, &mut self.api).await.is_err() {
            self.api.abort();
        }
        if let Some(lasts) = keep {
            self.datapath.leave();
            let leases = kept.iter().filter(|kept| **kept).count();
            tracing::info!("stopped, with the maps left and {leases} leases kept for {lasts:?}");
            return Ok(());
        }
        Discovered::remove(&self.model.config().node.name);
        let closed = self.datapath.close();
        tracing::info!("stopped");
        closed
    }
}

/// Leaves all elections, on a thread that may block; whose leases are kept until then.
fn leave_election(driver: vrrp::Driver, until: Option<BootTime>) -> JoinHandle<Vec<bool>> {
    spawn_blocking(move || match until {
        None => {
            driver.stop();
            Vec::new()
        }
        Some(until) => driver.stop_keeping(until),
    })
}
