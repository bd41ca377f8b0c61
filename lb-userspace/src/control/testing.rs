//! Configurations for the tests of the control loop's parts.

use std::path::Path;

use crate::config::{self, SecretError, Surroundings, model::Config};

/// A node with one virtual router, and these further lines.
pub(crate) fn config(lines: &str) -> Config {
    let text = format!(
        "[node]\nname = \"h1\"\n[vrrp.v]\ninterface = \"eth0\"\nvirtual_router_id = 51\npriority = 101\n\
         virtual_ipaddress = [\"172.18.0.201\"]\n{lines}"
    );
    parse(&text)
}

/// The configuration of a whole file.
pub(crate) fn parse(text: &str) -> Config {
    let around = Surroundings {
        host_name: "test".into(),
        directory: Path::new("."),
        read_secret: &|path| Err(SecretError::WorldReadable(path.display().to_string())),
        read_keys: &|_| Ok("1 0123456789abcdef0123456789abcdef\n".into()),
        check_program: &|_| Ok(()),
        find_user: &|_| None,
        world_readable: false,
    };
    match config::parse(text, "test.toml", &around) {
        Ok(loaded) => loaded.config,
        Err(report) => panic!("{report}"),
    }
}
