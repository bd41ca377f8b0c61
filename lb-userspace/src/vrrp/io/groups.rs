//! Sync groups in the driver's thread: after each round they are judged, and their members told what to do.

use super::thread::Thread;
use crate::vrrp::{
    group::{Demand, Member},
    router::{LocalEvent, Router},
    time::BootTime,
};

impl Thread {
    pub(super) fn keep_groups_together(&mut self, now: BootTime) {
        for group in 0..self.groups.len() {
            let units = &self.units;
            let verdict = self.groups[group].judge(|index| stands(now, &units[index].core));
            for member in 0..self.groups[group].routers().len() {
                let index = self.groups[group].routers()[member];
                let demand = verdict.demand(&stands(now, &self.units[index].core));
                if std::mem::replace(&mut self.units[index].demanded, demand) != demand {
                    self.demand(now, index, demand);
                }
            }
        }
    }

    fn demand(&mut self, now: BootTime, index: usize, demand: Demand) {
        let core = &mut self.units[index].core;
        core.handle_local(now, LocalEvent::Hold(matches!(demand, Demand::Hold | Demand::StepDown)));
        core.handle_local(now, LocalEvent::GroupFault(demand == Demand::Fault));
        if demand == Demand::StepDown {
            core.handle_local(now, LocalEvent::StepDown);
        }
        self.flush(index);
    }
}

fn stands(now: BootTime, core: &Router) -> Member {
    Member { state: core.state(), fault: core.is_faulty(), rival: core.has_rival(now) }
}
