//! `viplb run` in a balancer node: its configuration, its start, and its answers.
//!
//! The configuration carries the VRRP parameters that the users' keepalived has (id 51, PASS, 1 s). The daemon
//! is talked to as any tool would: HTTP over its control socket. Callers: [`crate::node`], screen and status.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    os::unix::{fs::OpenOptionsExt, net::UnixStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::{
    books,
    console::Console,
    lab::{Balancer, DB_PORT, Lab, Node, VIP},
    proc::{self, MARK},
    sql::MONITOR,
};

/// VRRP group of the lab.
pub const VRID: u8 = 51;
/// Its password; it is in every user's example configuration.
pub const AUTH_PASS: &str = "123456";

const READY_LIMIT: Duration = Duration::from_secs(60);
const ASK_LIMIT: Duration = Duration::from_millis(300);

/// The daemon whose maps have another layout, beside the daemon; none if it is not built.
pub fn other_layout() -> Option<PathBuf> {
    let path = binary().ok()?.with_file_name("viplb-other-layout");
    path.is_file().then_some(path)
}

/// The daemon's binary: `VIPLB_BIN`, else beside the running program (or one directory up, for tests).
pub fn binary() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("VIPLB_BIN") {
        return Ok(named.into());
    }
    let exe = std::env::current_exe()?;
    let beside = exe.ancestors().skip(1).take(2).map(|dir| dir.join("viplb")).find(|file| file.is_file());
    beside.ok_or_else(|| {
        anyhow!(
            "no `viplb` beside {}: `cargo xtask run` and `cargo xtask lab` build it first (or name it in VIPLB_BIN)",
            exe.display()
        )
    })
}

/// Fails early if this lab needs a daemon that has not been built.
pub(crate) fn check_binary(lab: &Lab) -> Result<()> {
    let plan = lab.plan();
    if [plan.h1, plan.h2].contains(&Balancer::Viplb) { binary().map(drop) } else { Ok(()) }
}

/// The `viplb.toml` of a balancer node.
pub fn configuration(lab: &Lab, node: &Node) -> String {
    let mut text = format!(
        "[node]\nname = \"{name}\"\n\n\
         [vrrp.vi_1]\ninterface = \"eth0\"\nvirtual_router_id = {VRID}\npriority = {priority}\n\
         advert_int = 1\nauth_pass = \"{AUTH_PASS}\"\nvirtual_ipaddress = [\"{VIP}\"]\n\n\
         [service.mysql]\nlisten = \"{VIP}:{DB_PORT}\"\nscheduler = \"rr\"\n\n\
         [service.mysql.check]\ntype = \"mysql\"\nuser = \"{user}\"\npassword = \"{password}\"\n\
         interval = \"1s\"\nrise = 2\nfall = 3\n",
        name = lab.viplb_name(node),
        priority = node.priority(),
        user = MONITOR.user,
        password = MONITOR.password.unwrap_or_default(),
    );
    for db in lab.databases() {
        let _ = write!(
            text,
            "\n[[service.mysql.backend]]\nname = \"{}\"\naddress = \"{}:{DB_PORT}\"\n",
            db.name, db.addr
        );
    }
    text
}

/// Starts the daemon, waits until its control socket answers, and begins the node's books.
pub fn start(lab: &Lab, node: &Node, console: &Console) -> Result<()> {
    launch(lab, node, console)?;
    books::begin(lab, node)
}

/// Starts the daemon and waits until its control socket answers.
pub fn launch(lab: &Lab, node: &Node, console: &Console) -> Result<()> {
    let dir = lab.node_dir(node);
    let config = dir.join("viplb.toml");
    // A file that is there is kept: the user may have changed it.
    if !config.exists() {
        let mut file = fs::File::options().create_new(true).write(true).mode(0o600).open(&config)?;
        file.write_all(configuration(lab, node).as_bytes())?;
    }
    let log_file = dir.join("viplb.log");
    let log = fs::File::options().create(true).append(true).open(&log_file)?;
    let mut command = Command::new(binary()?);
    command.arg("run").arg("-c").arg(&config).env(MARK, &node.name);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = lab.netns(node).spawn(command)?;
    let ready = console.wait_for(READY_LIMIT, || match child.try_wait()? {
        Some(status) => {
            bail!("viplb in {} ended at once ({status}):\n{}", node.name, proc::tail(&log_file, 8))
        }
        None => Ok(status(lab, node).is_ok()),
    });
    proc::reap(child);
    if !ready? {
        let log = proc::tail(&log_file, 8);
        bail!("viplb in {} does not answer after {} s:\n{log}", node.name, READY_LIMIT.as_secs());
    }
    console.say(format!("{}: viplb runs, priority {}", node.name, node.priority()));
    Ok(())
}

/// The daemon's status (`GET /v1/status`).
pub fn status(lab: &Lab, node: &Node) -> Result<Value> {
    let socket = PathBuf::from("/run/viplb").join(format!("{}.sock", lab.viplb_name(node)));
    let mut stream = UnixStream::connect(&socket).context("viplb does not run")?;
    stream.set_read_timeout(Some(ASK_LIMIT))?;
    stream.set_write_timeout(Some(ASK_LIMIT))?;
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: viplb\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => parse(&String::from_utf8_lossy(&answer)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => bail!("no answer (frozen?)"),
        Err(e) => Err(e.into()),
    }
}

fn parse(answer: &str) -> Result<Value> {
    let (head, body) = answer.split_once("\r\n\r\n").context("the daemon's answer is no HTTP")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("the daemon answers {}", head.lines().next().unwrap_or_default());
    }
    serde_json::from_str(body.trim()).context("the daemon's status is no JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{Engine, Plan};

    #[test]
    fn the_generated_configuration_is_the_users_keepalived_and_every_database_behind_it() {
        let (engine, viplb) = (Engine::Standin, Balancer::Viplb);
        let lab = Lab::of(Plan { prefix: "demo".to_owned(), db: 2, engine, h1: viplb, h2: viplb }).unwrap();
        let text = configuration(&lab, &lab.node("h1").unwrap());
        for line in [
            "name = \"demo-h1\"",
            "virtual_router_id = 51",
            "priority = 101",
            "auth_pass = \"123456\"",
            "virtual_ipaddress = [\"172.18.0.201\"]",
            "address = \"172.18.0.2:3306\"",
            "address = \"172.18.0.3:3306\"",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing from\n{text}");
        }
    }

    #[test]
    fn an_answer_that_is_not_200_or_not_json_is_an_error_with_words() {
        let status = parse("HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"vrrp\":[{}]}").unwrap();
        assert!(status["vrrp"][0]["lease_valid"].as_bool().is_none());
        assert!(parse("HTTP/1.1 404 Not Found\r\n\r\n").unwrap_err().to_string().contains("404"));
        assert!(parse("HTTP/1.1 200 OK\r\n\r\n<html>").is_err() && parse("").is_err());
    }
}
