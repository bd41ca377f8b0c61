//! Sync groups: virtual routers of one node that own their addresses together or not at all.
//!
//! A pure rule beside the state machines: whoever drives them tells [`Group::judge`] how all members stand, after
//! anything has happened to one of them, and does to each what [`Verdict::demand`] says. It reads no clock and knows no
//! router; it never lets a member take over earlier than it would alone.
//!
//! Why there is a rival: without it, two nodes whose members stand differently (one ahead in the first router, the other
//! in the second) would each take one router, hear the other in the second, and give both up, for ever.

use super::router::State;

/// How a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its state.
    pub state: State,
    /// It can take no part for a reason of its own: carrier, tracker. What the group demanded is none.
    pub fault: bool,
    /// Another router lives, to which this one leaves its addresses: of higher priority, or not to be pre-empted.
    pub rival: bool,
}

/// What holds for all members of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Each goes its own way.
    Free,
    /// One cannot own, so none must for the moment.
    Yield,
    /// One can take no part, so none may.
    Fault,
}

/// What one member is to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Nothing; what was demanded before is over.
    Nothing,
    /// Not to claim the addresses; a Fault that was demanded before is over.
    Hold,
    /// To give up lease and addresses, and be a backup.
    StepDown,
    /// To go to Fault, or stay there.
    Fault,
}

impl Verdict {
    /// What a member is to do.
    pub fn demand(self, member: &Member) -> Demand {
        match (self, member.state) {
            (_, State::Init) | (Self::Free, _) => Demand::Nothing,
            (Self::Fault, _) => Demand::Fault,
            (Self::Yield, State::Master) => Demand::StepDown,
            (Self::Yield, State::Backup | State::Fault) => Demand::Hold,
        }
    }
}

/// A group and what it remembers.
#[derive(Debug, Clone)]
pub struct Group {
    routers: Vec<usize>,
    /// Which members owned when this was last asked.
    owned: Vec<bool>,
    /// A member has stepped down; the others have not all followed yet.
    leaving: bool,
}

impl Group {
    /// A group of these routers, by their index in the setup.
    pub fn new(routers: Vec<usize>) -> Self {
        Self { owned: vec![false; routers.len()], routers, leaving: false }
    }

    /// Its members' indices.
    pub fn routers(&self) -> &[usize] {
        &self.routers
    }

    /// Judges the group; `stands` tells how a member stands, by its index in the setup.
    pub fn judge(&mut self, stands: impl Fn(usize) -> Member) -> Verdict {
        let (mut fault, mut rival, mut owner) = (false, false, false);
        for (router, owned) in self.routers.iter().zip(&mut self.owned) {
            let member = stands(*router);
            let owns = member.state == State::Master;
            // Whatever the reason: a lost lease, a failed advert, a late wake.
            self.leaving |= *owned && !owns;
            *owned = owns;
            fault |= member.fault;
            rival |= member.rival;
            owner |= owns;
        }
        self.leaving &= owner;
        match (fault, rival || self.leaving) {
            (true, _) => Verdict::Fault,
            (false, true) => Verdict::Yield,
            (false, false) => Verdict::Free,
        }
    }

    /// The state of a group whose members have these: that of its worst member.
    pub fn state(states: impl IntoIterator<Item = State>) -> State {
        let rank = |state: &State| match state {
            State::Init => 0,
            State::Fault => 1,
            State::Backup => 2,
            State::Master => 3,
        };
        states.into_iter().min_by_key(rank).unwrap_or(State::Init)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use State::{Backup, Fault, Init, Master};

    fn member(state: State) -> Member {
        Member { state, fault: false, rival: false }
    }

    fn demands(group: &mut Group, members: &[Member]) -> Vec<Demand> {
        let verdict = group.judge(|i| members[i]);
        members.iter().map(|m| verdict.demand(m)).collect()
    }

    #[test]
    fn each_member_is_told_what_the_others_make_necessary() {
        let faulty = |state| Member { fault: true, ..member(state) };
        let outranked = |state| Member { rival: true, ..member(state) };
        for (members, expected) in [
            ([member(Backup), member(Backup)], [Demand::Nothing, Demand::Nothing]),
            ([member(Master), member(Master)], [Demand::Nothing, Demand::Nothing]),
            ([member(Master), member(Backup)], [Demand::Nothing, Demand::Nothing]),
            ([faulty(Fault), member(Master)], [Demand::Fault, Demand::Fault]),
            ([faulty(Fault), member(Backup)], [Demand::Fault, Demand::Fault]),
            ([member(Fault), member(Fault)], [Demand::Nothing, Demand::Nothing]),
            ([outranked(Backup), member(Master)], [Demand::Hold, Demand::StepDown]),
            ([outranked(Backup), member(Backup)], [Demand::Hold, Demand::Hold]),
            ([outranked(Backup), faulty(Fault)], [Demand::Fault, Demand::Fault]),
            ([faulty(Init), member(Init)], [Demand::Nothing, Demand::Nothing]),
        ] {
            assert_eq!(demands(&mut Group::new(vec![0, 1]), &members), expected, "{members:?}");
        }
    }

    #[test]
    fn a_member_that_steps_down_for_whatever_reason_takes_the_others_along_and_then_all_are_free() {
        let mut group = Group::new(vec![0, 1, 2]);
        demands(&mut group, &[member(Master); 3]);
        let left = [member(Master), member(Backup), member(Master)];
        assert_eq!(demands(&mut group, &left), [Demand::StepDown, Demand::Hold, Demand::StepDown]);
        let one_more = [member(Backup), member(Backup), member(Master)];
        assert_eq!(demands(&mut group, &one_more), [Demand::Hold, Demand::Hold, Demand::StepDown]);
        assert_eq!(demands(&mut group, &[member(Backup); 3]), [Demand::Nothing; 3]);
    }

    #[test]
    fn members_that_take_over_one_after_the_other_are_let_be() {
        let mut group = Group::new(vec![0, 1]);
        demands(&mut group, &[member(Backup); 2]);
        assert_eq!(demands(&mut group, &[member(Master), member(Backup)]), [Demand::Nothing; 2]);
        assert_eq!(demands(&mut group, &[member(Master); 2]), [Demand::Nothing; 2]);
    }

    #[test]
    fn a_group_is_what_its_worst_member_is() {
        for (states, expected) in [
            ([Master, Master], Master),
            ([Master, Backup], Backup),
            ([Fault, Master], Fault),
            ([Init, Fault], Init),
        ] {
            assert_eq!(Group::state(states), expected, "{states:?}");
        }
    }

    proptest! {
        /// Whatever happens to members, those that do as they are told own together or not at all, at once.
        #[test]
        fn obedient_members_never_own_beside_one_that_cannot(
            happenings in proptest::collection::vec((0usize..3, 0u8..6), 1..60),
        ) {
            let mut group = Group::new(vec![0, 1, 2]);
            let mut members = [member(Backup); 3];
            for (which, what) in happenings {
                let before = members;
                let m = &mut members[which];
                match what {
                    0 if m.state == Backup => m.state = Master,
                    1 if m.state == Master => m.state = Backup,
                    2 => (m.fault, m.state) = (true, Fault),
                    3 if m.fault => m.fault = false,
                    4 if m.state == Master => (m.rival, m.state) = (true, Backup),
                    5 => m.rival = false,
                    _ => {}
                }
                let claims = before[which].state == Backup && members[which].state == Master;
                if claims && before.iter().any(|m| m.rival || m.fault) {
                    // It was told to hold.
                    members = before;
                }
                for _ in 0..2 {
                    let told = demands(&mut group, &members);
                    for (m, demand) in members.iter_mut().zip(told) {
                        match demand {
                            Demand::StepDown => m.state = Backup,
                            Demand::Fault => m.state = Fault,
                            Demand::Nothing if m.state == Fault && !m.fault => m.state = Backup,
                            Demand::Nothing | Demand::Hold => {}
                        }
                    }
                }
                let cannot = members.iter().any(|m| m.fault || m.rival);
                let stepped = before[which].state == Master && members[which].state != Master;
                if cannot || stepped {
                    prop_assert!(members.iter().all(|m| m.state != Master), "{members:?}");
                }
            }
        }
    }
}
