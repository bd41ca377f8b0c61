//! sysbench through each product: while a node is taken out in an orderly way, and against one writer.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    NAME,
    scene::{Product, Scene, writer},
};
use crate::{
    bench::row::Row,
    console::Console,
    galera,
    lab::DB_PORT,
    node,
    sql::{self, APP, ROOT, Server},
};

const TABLE_ROWS: &str = "10000";
/// For connections to leave a node that is to be drained.
const DRAIN: Duration = Duration::from_secs(10);

/// A transaction per connection. An error is counted and told at the end, instead of ending the client.
const RECONNECTING: &str = r#"
sysbench.cmdline.options = { tables = {"", 1}, table_size = {"", 10000} }
function thread_init()
  drv = sysbench.sql.driver()
  errors, done = 0, 0
end
local function transaction()
  local con = drv:connect()
  con:query("BEGIN")
  con:query("SELECT c FROM sbtest1 WHERE id = " .. sysbench.rand.default(1, 10000))
  con:query("UPDATE sbtest1 SET k = k + 1 WHERE id = " .. sysbench.rand.default(1, 10000))
  con:query("COMMIT")
  con:disconnect()
end
function event()
  local ok, why = pcall(transaction)
  if ok then
    done = done + 1
  else
    -- A conflict with another client's transaction is no fault of the way to the server.
    local conflict = type(why) == "table" and (why.sql_errno == 1213 or why.sql_errno == 1205)
    if not conflict then
      errors = errors + 1
      print("error: " .. (type(why) == "table" and tostring(why.sql_errmsg) or tostring(why)))
    end
  end
end
function thread_done()
  print("told: " .. done .. " " .. errors)
end
"#;

/// Takes a node out in an orderly way (desync, wait until it is left, stop) while clients reconnect between transactions.
pub fn drained(scene: &Scene, runs: u16, length: Duration, console: &Console) -> Result<Vec<Row>> {
    prepare(scene)?;
    let script = crate::lab::state_dir(&scene.lab().plan().prefix).join("reconnecting.lua");
    fs::write(&script, RECONNECTING)?;
    let mut figures = Product::ALL.map(|product| (product, 0u64, 0u64));
    for run in 1..=runs {
        scene.settle(console)?;
        let clients: Vec<(Product, Child)> = Product::ALL
            .into_iter()
            .map(|product| {
                let script = script.to_string_lossy().into_owned();
                Ok((product, start(scene, product.target(), &[&script], 8, length)?))
            })
            .collect::<Result<_>>()?;
        let since = Instant::now();
        console.wait_for(length / 3, || Ok(since.elapsed() > length / 4))?;
        take_out(scene, console)?;
        for (product, child) in clients {
            let (done, errors) = told(&finished(child)?)?;
            let figure = figures.iter_mut().find(|(of, ..)| *of == product).context("a product")?;
            figure.1 += done;
            figure.2 += errors;
            console.say(format!(
                "run {run}/{runs}  node taken out, {}: {errors} errors of {done} transactions",
                product.word()
            ));
        }
        galera::restart_node(scene.lab(), &scene.victim()?, &Console::quiet())?;
    }
    let [(_, done, errors), peers @ ..] = figures;
    let row = |unit: &str, value: u64| {
        Row::sum(NAME, "node taken out under sysbench", unit, value as f64, runs.into())
    };
    let mut rows = vec![row("transactions", done), row("errors", errors).at_most(0.0)];
    for (product, done, errors) in peers {
        rows[0] = rows[0].clone().beside_sum(product.word(), done as f64);
        rows[1] = rows[1].clone().beside_sum(product.word(), errors as f64);
    }
    Ok(rows)
}

fn take_out(scene: &Scene, console: &Console) -> Result<()> {
    let (lab, victim) = (scene.lab(), scene.victim()?);
    let server = Server::Socket(lab.db_socket(&victim));
    sql::query(&server, ROOT, "SET GLOBAL wsrep_desync = ON")?;
    let left = console.wait_for(DRAIN, || {
        let drains = scene.viplb_state(&victim).as_deref() == Some("drain");
        let from = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app' AND host LIKE '172.18.0.201:%'";
        Ok(drains && sql::query(&server, ROOT, from)?[0][0].as_deref() == Some("0"))
    })?;
    ensure!(left, "viplb's clients do not leave {} within {DRAIN:?}", victim.name);
    node::stop(lab, &victim, &Console::quiet())
}

/// How many transactions are aborted by conflicts: through the writer's service, straight at one node, through HAProxy to all.
pub fn single_writer(scene: &Scene, runs: u16, length: Duration, console: &Console) -> Result<Vec<Row>> {
    prepare(scene)?;
    scene.settle(console)?;
    let direct = SocketAddr::from((scene.lab().node("db1")?.addr, DB_PORT));
    let targets = [
        ("viplb", writer()),
        ("straight to one node", direct),
        ("HAProxy, all nodes", Product::Haproxy.target()),
    ];
    let mut shares = targets.map(|_| Vec::new());
    let mut rates = targets.map(|_| Vec::new());
    for run in 1..=runs {
        for (i, (name, target)) in targets.iter().enumerate() {
            let table = format!("--table-size={TABLE_ROWS}");
            let output = finished(start(scene, *target, &["oltp_read_write", &table], 32, length)?)?;
            let (done, aborted) = (after(&output, "transactions:")?, after(&output, "ignored errors:")?);
            console.say(format!("run {run}/{runs}  32 writers, {name}: {aborted} aborted, {done} done"));
            shares[i].push(1e3 * aborted / (done + aborted).max(1.0));
            rates[i].push(done / length.as_secs_f64());
        }
    }
    let rows = |figure: &str, unit: &str, of: &[Vec<f64>; 3]| {
        let row = Row::median(NAME, format!("one writer, sysbench with 32 threads: {figure}"), unit, &of[0]);
        row.beside(targets[1].0, &of[1]).beside(targets[2].0, &of[2])
    };
    // Both are the same in truth; what they differ by is chance, which their own spread tells.
    let most = shares[1].iter().copied().fold(0.0, f64::max);
    Ok(vec![
        rows("transactions aborted", "of 1,000", &shares).at_most(most),
        rows("transactions", "per second", &rates),
    ])
}

fn prepare(scene: &Scene) -> Result<()> {
    let db = scene.lab().node("db1")?;
    let server = Server::Socket(scene.lab().db_socket(&db));
    sql::query(&server, ROOT, "DROP TABLE IF EXISTS app.sbtest1")?;
    let mut command = sysbench(SocketAddr::from((db.addr, DB_PORT)), 1);
    command.args(["oltp_read_write", &format!("--table-size={TABLE_ROWS}"), "prepare"]);
    finished(scene.lab().netns(&scene.client()?).spawn(piped(command))?).map(drop)
}

fn start(
    scene: &Scene,
    target: SocketAddr,
    script: &[&str],
    threads: u16,
    length: Duration,
) -> Result<Child> {
    let mut command = sysbench(target, threads);
    command.arg(format!("--time={}", length.as_secs())).args(script).arg("run");
    scene.lab().netns(&scene.client()?).spawn(piped(command))
}

fn sysbench(target: SocketAddr, threads: u16) -> Command {
    let mut command = Command::new("sysbench");
    command.args(["--db-driver=mysql", "--events=0"]).arg(format!("--threads={threads}"));
    command.arg(format!("--mysql-host={}", target.ip())).arg(format!("--mysql-port={}", target.port()));
    command.arg(format!("--mysql-user={}", APP.user)).arg(format!("--mysql-db={}", APP.user));
    command.arg(format!("--mysql-password={}", APP.password.unwrap_or_default()));
    command
}

fn piped(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn finished(child: Child) -> Result<String> {
    let out = child.wait_with_output().context("sysbench")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        bail!("sysbench ended with {}:\n{text}{}", out.status, String::from_utf8_lossy(&out.stderr));
    }
    Ok(text)
}

/// What the threads of [`RECONNECTING`] have told: transactions and errors.
fn told(output: &str) -> Result<(u64, u64)> {
    let lines = output.lines().filter_map(|line| line.strip_prefix("told: ")?.split_once(' '));
    let numbers = lines.map(|(done, errors)| Ok((done.parse::<u64>()?, errors.trim().parse::<u64>()?)));
    let numbers = numbers.collect::<Result<Vec<_>>>()?;
    ensure!(!numbers.is_empty(), "sysbench's threads have told nothing:\n{output}");
    Ok(numbers.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1)))
}

/// The number behind a word of sysbench's report.
fn after(output: &str, word: &str) -> Result<f64> {
    let line = output.lines().find_map(|line| line.trim().strip_prefix(word));
    let number = line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok());
    number.with_context(|| format!("sysbench's report lacks {word}\n{output}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
SQL statistics:
    transactions:                        1234   (123.11 per sec.)
    queries:                             24680  (2462.20 per sec.)
    ignored errors:                      17     (1.70 per sec.)
    reconnects:                          0      (0.00 per sec.)
";

    #[test]
    fn the_report_of_sysbench_is_read() {
        assert_eq!(after(REPORT, "transactions:").unwrap(), 1234.0);
        assert_eq!(after(REPORT, "ignored errors:").unwrap(), 17.0);
        assert!(after(REPORT, "unheard of:").is_err());
    }

    #[test]
    fn what_the_threads_tell_is_added_up() {
        assert_eq!(told("x\ntold: 3 1\ntold: 4 0\n").unwrap(), (7, 1));
        assert!(told("nothing").is_err());
    }
}
