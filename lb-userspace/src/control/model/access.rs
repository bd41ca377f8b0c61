//! What the packet programs are to know of services' clients.

use lb_common::{
    access::{ALLOW, DROP, Limits, REFUSE},
    addr::Addr,
};

use crate::{
    config::model::{Access, ClientLimit, DenyAction, Prefix, Service},
    datapath::access,
};

const SECOND_NS: u64 = 1_000_000_000;

/// The rules of a service, its pace for each client, and whether what a backend does not take goes to another.
pub(super) fn desired(service: &Service) -> access::Access {
    let config = &service.access;
    let limits = Limits {
        redispatch: u8::from(service.redispatch),
        ..config.client_limit.as_ref().map(limits).unwrap_or_default()
    };
    access::Access { limits, rules: rules(config) }
}

fn rules(config: &Access) -> Vec<(Addr, u8, u32)> {
    let refusal = match config.deny_action {
        DenyAction::Drop => DROP,
        DenyAction::Reset => REFUSE,
    };
    let rule = |word: u32| move |p: &Prefix| (p.addr.into(), p.bits(), word);
    let mut rules: Vec<_> = config.allow.iter().map(rule(ALLOW)).collect();
    rules.extend(config.deny.iter().map(rule(refusal)));
    if !config.allow.is_empty() && rules.iter().all(|(_, bits, _)| *bits > 0) {
        // Everybody else, of either family.
        rules.push((Addr::default(), 0, refusal));
    }
    rules
}

fn limits(limit: &ClientLimit) -> Limits {
    let interval = limit.rate.map_or(0, |rate| SECOND_NS * u64::from(rate.seconds) / u64::from(rate.count));
    Limits {
        interval,
        ahead: limit.rate.map_or(0, |rate| interval * u64::from(rate.burst - 1)),
        connections: limit.connections,
        prefix_v4: 96 + limit.prefix_v4,
        prefix_v6: limit.prefix_v6,
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Rate;

    #[test]
    fn an_allow_list_denies_everybody_else_and_a_deny_list_alone_nobody_else() {
        let prefix = |text: &str, len| Prefix { addr: text.parse().unwrap(), len };
        let mut config = Access { deny: vec![prefix("10.1.0.0", 16)], ..Access::default() };
        assert_eq!(rules(&config), [(config.deny[0].addr.into(), 112, DROP)]);
        config.allow = vec![prefix("10.0.0.0", 8), prefix("fd00::", 8)];
        config.deny_action = DenyAction::Reset;
        let words: Vec<_> = rules(&config).iter().map(|(_, bits, word)| (*bits, *word)).collect();
        assert_eq!(words, [(104, ALLOW), (8, ALLOW), (112, REFUSE), (0, REFUSE)]);
    }

    #[test]
    fn a_rate_is_a_pace_and_what_may_come_at_once() {
        let rate = Some(Rate { count: 30, seconds: 60, burst: 3 });
        let limit = ClientLimit { rate, connections: 7, prefix_v4: 24, prefix_v6: 64 };
        let l = limits(&limit);
        assert_eq!((l.interval, l.ahead), (2 * SECOND_NS, 4 * SECOND_NS));
        assert_eq!((l.prefix_v4, l.prefix_v6, l.connections), (120, 64, 7));
    }
}
