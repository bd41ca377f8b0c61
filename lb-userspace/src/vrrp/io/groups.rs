//! Sync groups in the driver's thread: after each round they are judged, and their members told what to do.

use super::thread::Thread;
use crate::vrrp::{
    group::{Demand, Group, Member},
    router::{LocalEvent, Router, State},
    time::BootTime,
};

/// A member that has not come yet, or has gone: it makes no demand on the others.
const ABSENT: Member = Member { state: State::Init, fault: false, rival: false };

impl Thread {
    pub(super) fn keep_groups_together(&mut self, now: BootTime) {
        for group in 0..self.groups.len() {
            let units = &self.units;
            let of = |number: &usize| units.iter().find(|unit| unit.number == *number);
            let verdict =
                self.groups[group].judge(|number| of(&number).map_or(ABSENT, |unit| stands(now, &unit.core)));
            for member in 0..self.groups[group].routers().len() {
                let Some(index) = self.index_of(self.groups[group].routers()[member]) else { continue };
                let demand = verdict.demand(&stands(now, &self.units[index].core));
                if std::mem::replace(&mut self.units[index].demanded, demand) != demand {
                    self.demand(now, index, demand);
                }
            }
        }
    }

    /// Other groups from now on. Who is in none any more is free.
    pub(super) fn regroup(&mut self, now: BootTime, groups: Vec<Vec<usize>>) {
        self.groups = groups.into_iter().map(Group::new).collect();
        for index in 0..self.units.len() {
            let number = self.units[index].number;
            let grouped = self.groups.iter().any(|group| group.routers().contains(&number));
            if !grouped && self.units[index].demanded != Demand::Nothing {
                self.units[index].demanded = Demand::Nothing;
                self.demand(now, index, Demand::Nothing);
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
