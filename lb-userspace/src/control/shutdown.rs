//! The stop order, in one place: no new decisions, then the election (lease given up, priority 0 sent, so that the peer
//! takes over at once), then addresses, then programs that are told of it, then the control socket, and the packet programs last:
//! until then they swallow what still comes for the virtual addresses.

use std::time::Duration;

use anyhow::Result;
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{Control, end_own_connections, sync};

/// How long programs that are told of the stop may take, all together: less than `docker stop` waits.
const NOTIFY_LIMIT: Duration = Duration::from_secs(5);
/// How long requests on the control socket may take to end.
const API_LIMIT: Duration = Duration::from_secs(1);

/// How often flows are told while the election ends.
const FLUSH: Duration = Duration::from_millis(1);

impl Control {
    /// Stops everything; goes on after a failure and reports the first.
    pub(super) async fn shutdown(mut self) -> Result<()> {
        self.cancel.cancel();
        let stopping = self.model.stop_notices();
        sync::pass_on(&mut self.replication, &mut self.datapath).await;
        // What is established while a successor takes over is told at once.
        let stopping_driver = spawn_blocking(move || self.driver.stop());
        while !stopping_driver.is_finished() {
            sync::flush(&mut self.replication, &mut self.datapath);
            sleep(FLUSH).await;
        }
        sync::flush(&mut self.replication, &mut self.datapath);
        for change in self.model.address_removals() {
            if let Err(e) = self.netlink.remove_address(change.ifindex, change.addr).await {
                tracing::warn!("{e:#}");
            }
            end_own_connections(change.addr);
        }
        for notice in stopping {
            self.notifier.tell(notice);
        }
        self.notifier.finish(NOTIFY_LIMIT).await;
        self.tasks.close();
        self.tasks.wait().await;
        // A client that holds a request half sent must not keep the programs attached.
        if !self.api.is_finished() && timeout(API_LIMIT, &mut self.api).await.is_err() {
            self.api.abort();
        }
        let closed = self.datapath.close();
        tracing::info!("stopped");
        closed
    }
}
