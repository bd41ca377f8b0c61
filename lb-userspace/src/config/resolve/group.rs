//! The part of `resolve` that is about routers that own together, and about programs that are run.

use std::path::PathBuf;

use toml::Spanned;

use super::{Resolver, track::words};
use crate::config::{
    file::{self, group::Command},
    model::{Notify, Program, RunAs, SyncGroup},
    reader::Field,
};

impl Resolver<'_, '_> {
    pub(super) fn group(&mut self, g: &file::group::Group) -> Option<SyncGroup> {
        let given = g.members.given()?;
        let mut members = Vec::new();
        for member in given.get_ref() {
            let Some(router) = self.file.vrrp.iter().position(|v| v.name.get_ref() == member.get_ref())
            else {
                let known: Vec<_> = self.file.vrrp.iter().map(|v| v.name.get_ref().as_str()).collect();
                let message = format!("there is no virtual router `{}`", member.get_ref().escape_debug());
                self.error(member.span(), message, format!("virtual routers are: {}", known.join(", ")));
                continue;
            };
            if members.contains(&router) {
                self.error(member.span(), "this router is listed twice", "remove one");
            }
            self.compare_groups(g, member);
            members.push(router);
        }
        if given.get_ref().len() < 2 {
            self.error(given.span(), "a group has two members at least", "name another, or remove the group");
        }
        self.compare_members(given.span(), &members);
        Some(SyncGroup { name: g.name.get_ref().clone(), members, notify: self.notify(&g.notify) })
    }

    fn compare_groups(&mut self, g: &file::group::Group, member: &Spanned<String>) {
        let before = self.file.groups.iter().take_while(|other| other.name.get_ref() != g.name.get_ref());
        let has = |other: &&file::group::Group| {
            other.members.value().into_iter().flatten().any(|m| m.get_ref() == member.get_ref())
        };
        let Some(other) = before.into_iter().find(has) else { return };
        let message = format!("`{}` is already in [sync_group.{}]", member.get_ref(), other.name.get_ref());
        self.error(member.span(), message, "a router is in one group at most");
    }

    /// Members that would be elected apart from each other, if they were alone.
    fn compare_members(&mut self, place: std::ops::Range<usize>, members: &[usize]) {
        let all: Vec<&file::Vrrp> = members.iter().map(|m| &self.file.vrrp[*m]).collect();
        let Some((first, rest)) = all.split_first() else { return };
        let differs = |of: &dyn Fn(&file::Vrrp) -> bool| rest.iter().any(|v| of(v));
        let others = [
            ("priority", differs(&|v| v.priority.value() != first.priority.value())),
            ("preempt", differs(&|v| v.preempt.value() != first.preempt.value())),
        ];
        for (key, _) in others.into_iter().filter(|(_, differs)| *differs) {
            let message = format!("the members of this group differ in `{key}`");
            self.warning(
                place.clone(),
                message,
                "they own together or not at all: give all of them the same",
            );
        }
    }

    pub(super) fn notify(&mut self, n: &file::group::Notify) -> Notify {
        let user = self.run_as(&n.user);
        let notify = Notify {
            any: self.program(&n.any, user.as_ref()),
            master: self.program(&n.master, user.as_ref()),
            backup: self.program(&n.backup, user.as_ref()),
            fault: self.program(&n.fault, user.as_ref()),
            stop: self.program(&n.stop, user.as_ref()),
        };
        let absent = [&n.any, &n.master, &n.backup, &n.fault, &n.stop].iter().all(|c| c.is_absent());
        if let (true, Some(given)) = (absent, n.user.given()) {
            let message = "`notify_user` has no use without a program to run";
            self.warning(given.span(), message, "add `notify = [\"/path/program\"]`, or remove it");
        }
        notify
    }

    /// A command line, checked for what may be run at all.
    pub(super) fn program(&mut self, command: &Command, user: Option<&RunAs>) -> Option<Program> {
        let given = command.given()?;
        let Some(first) = given.get_ref().first() else {
            self.error(given.span(), "there is no program to run", "write [\"/path/program\", \"argument\"]");
            return None;
        };
        let path = PathBuf::from(first.get_ref());
        let refusal = if path.is_absolute() {
            (self.around.check_program)(&path).err().map(|unfit| (unfit.to_string(), unfit.help()))
        } else {
            let message = format!("`{}` is not the whole path of a program", first.get_ref().escape_debug());
            Some((message, "write it from / on: no PATH is searched".into()))
        };
        if let Some((message, help)) = refusal {
            let one_line = first.get_ref().contains(' ');
            let words = "no shell takes it apart: write each word as a string of its own";
            self.error(first.span(), message, if one_line { words.into() } else { help });
            return None;
        }
        Some(Program { path, args: words(command).split_off(1), user: user.cloned() })
    }

    /// The user that runs programs, if another than the daemon's own is named.
    pub(super) fn run_as(&mut self, name: &Field<String>) -> Option<RunAs> {
        let given = name.given()?;
        let user = (self.around.find_user)(given.get_ref());
        if user.is_none() {
            let message = format!("there is no user `{}` here", given.get_ref().escape_debug());
            let help = "see `getent passwd`; without it, the daemon's own user runs the program";
            self.error(given.span(), message, help);
        }
        user
    }
}
