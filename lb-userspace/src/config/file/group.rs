//! `[sync_group.NAME]`, and the programs that a router or a group has run when its state changes, as written.
//!
//! `file` calls [`read`] once per section, `vrrp` calls [`read_notify`].

use toml::{Spanned, de::DeTable};

use super::{Hints, track::word};
use crate::config::{
    diagnostic::Report,
    reader::{Field, Reader},
};

/// `[sync_group.NAME]`.
pub struct Group {
    /// The `NAME`, with its place.
    pub name: Spanned<String>,
    /// `group`.
    pub members: Field<Vec<Spanned<String>>>,
    /// `notify` and its kin.
    pub notify: Notify,
}

/// A command line as written.
pub type Command = Field<Vec<Spanned<String>>>;

/// What is run when a state changes.
pub struct Notify {
    /// `notify`.
    pub any: Command,
    /// `notify_master`.
    pub master: Command,
    /// `notify_backup`.
    pub backup: Command,
    /// `notify_fault`.
    pub fault: Command,
    /// `notify_stop`.
    pub stop: Command,
    /// `notify_user`.
    pub user: Field<String>,
}

/// Reads one section.
pub fn read(name: Spanned<String>, table: &DeTable<'_>, report: &mut Report) -> Group {
    let title = format!("[sync_group.{}]", name.get_ref());
    let mut r = Reader::new(table, title, name.span(), report).hints(GROUP_HINTS);
    let members = r.list("group", word);
    r.require("group", &members, "group = [\"VI_1\", \"VI_2\"]");
    let group = Group { name, members, notify: read_notify(&mut r) };
    r.finish();
    group
}

/// The keys that a router and a group share.
pub fn read_notify(r: &mut Reader<'_, '_>) -> Notify {
    Notify {
        any: r.list("notify", word),
        master: r.list("notify_master", word),
        backup: r.list("notify_backup", word),
        fault: r.list("notify_fault", word),
        stop: r.list("notify_stop", word),
        user: r.string("notify_user"),
    }
}

const GROUP_HINTS: Hints = &[
    ("members", "write `group = [\"VI_1\", \"VI_2\"]`"),
    ("track", "write it into one of the group's `[vrrp.NAME]`: it counts for all of them"),
    ("track_script", "write `track` into one of the group's `[vrrp.NAME]`: it counts for all of them"),
    ("track_interface", "write `track` into one of the group's `[vrrp.NAME]`: it counts for all of them"),
    ("sync_group_tracking_weight", "leave it out: a member's weights always count for the whole group"),
];
