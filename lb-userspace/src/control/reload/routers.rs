//! Virtual routers that come, go or change by a reload, and their sync groups.
//!
//! Who goes does so as at a stop, and before the tables are others: its services are served until its addresses are another
//! node's. Who comes does so as at a start, and after that: its services are in the maps before anybody can own their address. The
//! others keep numbers, states, leases and sockets.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::{task::spawn_blocking, time::sleep};

use super::super::{
    Control, end_own_connections,
    model::{Model, places_before},
    shutdown::{ELECTION_LIMIT, FLUSH},
    start, sync,
};
use crate::{
    config::model::Config,
    vrrp::{BootTime, Driver, Opened, RouterSetup, Spent},
};

/// What the election is to know of each virtual router, in the order of the file.
pub(super) fn setups(config: &Config) -> Vec<RouterSetup> {
    config.vrrp.iter().map(RouterSetup::from).collect()
}

/// Closes sockets where nobody waits for it.
fn close(spent: Spent) {
    drop(spawn_blocking(move || spent.close()));
}

impl Control {
    /// Opens the sockets for virtual routers that are new in the next model.
    pub(super) fn open_for_new(&self, next: &Model) -> Result<Opened> {
        let (before, all) = (setups(self.model.config()), setups(next.config()));
        let places = places_before(self.model.config(), next.config());
        let new: Vec<_> =
            all.iter().zip(places).filter(|(_, place)| place.is_none()).map(|(r, _)| r).collect();
        let (before, all) = (before.iter().collect::<Vec<_>>(), all.iter().collect::<Vec<_>>());
        Ok(Driver::open(&before, &all, &new)?)
    }

    /// Has virtual routers that are gone in the next model leave as at a stop: their flows are told to the peers, the lease is handed
    /// over or given up, the addresses go from the interfaces. Gives their numbers and places.
    pub(super) async fn depart(&mut self, next: &Model) -> Vec<(u32, usize)> {
        let groups = start::groups(next.config(), next.numbers());
        if groups != start::groups(self.model.config(), self.model.numbers()) {
            // First, or those that stay would go along with a member that leaves.
            self.driver.set_groups(groups);
        }
        let gone = self.model.routers_gone_in(next.config());
        if gone.is_empty() {
            return gone;
        }
        let notices = self.model.leave_notices(gone.iter().map(|(_, place)| *place));
        self.datapath.alive.renew(BootTime::now());
        let owned = self.model.owned();
        if gone.iter().any(|(number, _)| owned.contains(&(*number as usize))) {
            sync::pass_on(&mut self.replication, &mut self.datapath).await;
        }
        self.hand_over(ELECTION_LIMIT);
        let left = self.driver.remove(gone.iter().map(|(number, _)| *number as usize).collect());
        let left = spawn_blocking(move || left.close());
        // What begins, or is established, while a successor takes over is told at once.
        while !left.is_finished() {
            sync::flush(&mut self.replication, &mut self.datapath);
            sleep(FLUSH).await;
        }
        sync::flush(&mut self.replication, &mut self.datapath);
        self.hand_over(sync::HANDING_OVER);
        for change in gone.iter().flat_map(|(_, place)| self.model.addresses_of(*place)) {
            if let Err(e) = self.netlink.remove_address(change.ifindex, change.addr).await {
                tracing::warn!("{e:#}");
            }
            end_own_connections(change.addr);
        }
        notices.into_iter().for_each(|notice| self.notifier.tell(notice));
        gone
    }

    /// So long peers are told of half-open flows at most.
    fn hand_over(&mut self, lasts: Duration) {
        if let Some(replication) = &mut self.replication {
            replication.hand_over(lasts);
        }
    }

    /// The tables could not be written: who has left for the new ones joins the election again, as at a start.
    pub(super) fn come_back(&mut self, left: &[(u32, usize)]) {
        let (config, numbers) = (self.model.config(), self.model.numbers());
        self.driver.set_groups(start::groups(config, numbers));
        let all = setups(config);
        let has_left = |place: usize| left.iter().any(|(_, p)| *p == place);
        let back: Vec<_> = all.iter().enumerate().filter(|(place, _)| has_left(*place)).collect();
        if back.is_empty() {
            return;
        }
        let new: Vec<_> = back.iter().map(|(_, router)| *router).collect();
        let all: Vec<_> = all.iter().collect();
        let opened = Driver::open(&all, &all, &new);
        let number = |place: usize| numbers.router(place) as usize;
        let backs = back.into_iter().map(|(place, router)| (number(place), router.clone())).collect();
        match opened.context("virtual routers that have left cannot come back") {
            Ok(opened) => close(self.driver.add(backs, opened)),
            Err(e) => tracing::error!("{e:#}"),
        }
    }

    /// The VRRP thread goes over to the model that runs from now on: who is new joins, who is another way changes.
    pub(super) fn change_elections(&mut self, old: &Model, opened: Opened) {
        let (config, numbers) = (self.model.config(), self.model.numbers());
        let (before, after) = (setups(old.config()), setups(config));
        let mut new = Vec::new();
        for ((setup, place), number) in
            after.into_iter().zip(places_before(old.config(), config)).zip(numbers.routers())
        {
            match place {
                Some(place) if before[place] == setup => {}
                Some(_) => self.driver.change(*number as usize, setup),
                None => new.push((*number as usize, setup)),
            }
        }
        if !new.is_empty() {
            let joined: Vec<_> = new.iter().map(|(number, _)| *number as u32).collect();
            self.datapath.collector.join(&joined);
            close(self.driver.add(new, opened));
            // With the priorities that trackers make.
            self.tell_tracked();
        }
        close(self.driver.tidy());
    }
}
