//! The keys of `[service.NAME]` about connections that a backend does not take, as written: `redispatch`,
//! `move_ungreeted` and `passive`.

use std::time::Duration;

use toml::{Spanned, de::DeTable};

use super::{HOUR, Hints};
use crate::config::{
    diagnostic::Report,
    reader::{Bare, Field, Reader, Switch},
};

/// `redispatch`, `move_ungreeted`, `passive`.
pub struct MissedKeys {
    /// `redispatch`.
    pub redispatch: Field<bool>,
    /// `move_ungreeted`.
    pub move_ungreeted: Field<bool>,
    /// `passive`.
    pub passive: Field<Passive>,
}

/// `passive = false`, `true`, or a table.
pub enum Passive {
    /// Nobody is ejected.
    Off,
    /// By these rules.
    By(Box<Rules>),
}

/// `[service.NAME.passive]`.
#[derive(Default)]
pub struct Rules {
    /// `after`.
    pub after: Field<u32>,
    /// `share`.
    pub share: Field<u8>,
    /// `window`.
    pub window: Field<Duration>,
    /// `ejection`.
    pub ejection: Field<Duration>,
    /// `most_ejected`.
    pub most: Field<u8>,
}

/// What a service's section says before its tables are read.
pub struct Written<'t> {
    redispatch: Field<bool>,
    move_ungreeted: Field<bool>,
    passive: Field<Switch<'t>>,
}

/// Reads them from a service's section.
pub fn take<'t>(r: &mut Reader<'t, '_>) -> Written<'t> {
    Written {
        redispatch: r.boolean("redispatch"),
        move_ungreeted: r.boolean("move_ungreeted"),
        passive: r.switch("passive"),
    }
}

/// Reads the table as well, if there is one.
pub fn read(service: &str, written: Written<'_>, report: &mut Report) -> MissedKeys {
    let passive = match written.passive {
        Field::Absent => Field::Absent,
        Field::Bad => Field::Bad,
        Field::Given(given) => {
            let read = match given.get_ref() {
                Switch::Off => Passive::Off,
                Switch::On => Passive::By(Box::default()),
                Switch::Table(table) => {
                    let table = Spanned::new(given.span(), *table);
                    Passive::By(Box::new(rules(service, &table, report)))
                }
            };
            Field::Given(Spanned::new(given.span(), read))
        }
    };
    MissedKeys { redispatch: written.redispatch, move_ungreeted: written.move_ungreeted, passive }
}

fn rules(service: &str, table: &Spanned<&DeTable<'_>>, report: &mut Report) -> Rules {
    let title = format!("[service.{service}.passive]");
    let mut r = Reader::new(table.get_ref(), title, table.span(), report).hints(HINTS);
    let rules = Rules {
        after: r.integer("after", 1..=100_000),
        share: r.integer("share", 1..=100),
        window: r.duration("window", Bare::Refused, Duration::from_millis(500)..=Duration::from_secs(60)),
        ejection: r.duration("ejection", Bare::Refused, Duration::from_secs(1)..=HOUR),
        most: r.integer("most_ejected", 1..=100),
    };
    r.finish();
    rules
}

const HINTS: Hints = &[
    ("consecutive_5xx", "write `after`"),
    ("consecutive_gateway_failure", "write `after`"),
    ("error-limit", "write `after`"),
    ("interval", "write `window`"),
    ("base_ejection_time", "write `ejection`"),
    ("max_ejection_percent", "write `most_ejected`"),
];
