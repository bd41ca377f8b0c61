//! Which changes of routers and groups programs are to be told of, and what.
//!
//! The model calls this whenever a router enters a state; the control loop takes the notices to `notify`.

use super::Model;
use crate::{
    notify::{self, Notice, Subject},
    vrrp::{self, group::Group},
};

impl Model {
    /// A group changes with the last of its members, or the first.
    pub(super) fn judge_groups(&mut self, router: usize, reason: &str) {
        for index in 0..self.groups.len() {
            let members = &self.config.groups[index].members;
            if !members.contains(&router) {
                continue;
            }
            let state = Group::state(members.iter().map(|m| self.routers[*m].state));
            let old = std::mem::replace(&mut self.groups[index], state);
            self.notice(Subject::Group(index), old, state, reason);
        }
    }

    pub(super) fn notice(&mut self, subject: Subject, old: vrrp::State, state: vrrp::State, reason: &str) {
        // That a router was stopped is told once, at the daemon's stop.
        if old == state || state == vrrp::State::Init {
            return;
        }
        let notice = self.notice_of(subject, old.into(), state.into(), reason);
        self.notices.push(notice);
    }

    fn notice_of(&self, subject: Subject, old: notify::State, state: notify::State, why: &str) -> Notice {
        let (name, members) = match subject {
            Subject::Router(i) => (&self.config.vrrp[i].name, vec![i]),
            Subject::Group(i) => (&self.config.groups[i].name, self.config.groups[i].members.clone()),
        };
        let routers = members.iter().map(|m| &self.config.vrrp[*m]);
        let addresses = routers.flat_map(|r| r.addresses.iter().chain(&r.excluded));
        let addresses: Vec<String> = addresses.map(|a| a.addr.to_string()).collect();
        Notice {
            subject,
            name: name.clone(),
            old,
            state,
            priority: self.tracking.of(members[0]).priority,
            reason: why.to_owned(),
            addresses: addresses.join(" "),
        }
    }

    /// Changes that programs are to be told of since this was last asked.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// The notices of the end of the routers in these places.
    pub fn leave_notices(&self, places: impl IntoIterator<Item = usize>) -> Vec<Notice> {
        let stop = |place: usize| {
            let old = self.routers[place].state.into();
            self.notice_of(Subject::Router(place), old, notify::State::Stop, "no longer in the configuration")
        };
        places.into_iter().map(stop).collect()
    }

    /// The notices of the daemon's stop.
    pub fn stop_notices(&self) -> Vec<Notice> {
        let routers = self.routers.iter().enumerate().map(|(i, r)| (Subject::Router(i), r.state));
        let groups = self.groups.iter().enumerate().map(|(i, state)| (Subject::Group(i), *state));
        let stop = |(subject, old): (Subject, vrrp::State)| {
            self.notice_of(subject, old.into(), notify::State::Stop, "stopped")
        };
        routers.chain(groups).map(stop).collect()
    }
}

impl From<vrrp::State> for notify::State {
    fn from(state: vrrp::State) -> Self {
        match state {
            vrrp::State::Init => Self::Init,
            vrrp::State::Backup => Self::Backup,
            vrrp::State::Master => Self::Master,
            vrrp::State::Fault => Self::Fault,
        }
    }
}
