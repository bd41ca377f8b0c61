//! What a stopped Galera node leaves behind, read from a directory per node: `grastate.dat`, `gvwstate.dat`, the
//! output of `--wsrep-recover`, and what the collector noted about the server itself.
//!
//! [`COLLECTOR`] is the script that makes such a directory; by hand it is a copy of two files. Readers here take any
//! text and never fail: what is not there is `None`, and [`super::plan`] says what that means.

use std::{collections::BTreeSet, fs, io, path::Path};

/// A POSIX shell script that fills a directory for the node it runs on.
pub const COLLECTOR: &str = include_str!("collect.sh");

/// `grastate.dat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grastate {
    /// Which cluster; all zeroes if it is in none.
    pub uuid: String,
    /// Number of its last transaction; -1 after a crash, and while it runs.
    pub seqno: i64,
    /// Whether it was the last to leave.
    pub safe_to_bootstrap: bool,
}

/// `gvwstate.dat`: the primary view that a node was in when it ended without leaving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastView {
    /// The node's own identity in it.
    pub my_uuid: String,
    /// The view's identity.
    pub view_id: String,
    /// Its number, the last word of that; later views have higher ones.
    pub number: u64,
    /// Identities of all its members.
    pub members: BTreeSet<String>,
}

/// A position in the history of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Which cluster.
    pub uuid: String,
    /// Number of the last transaction.
    pub seqno: i64,
}

/// What is known of one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collected {
    /// The name of its directory.
    pub name: String,
    /// `grastate.dat`.
    pub grastate: Option<Grastate>,
    /// `gvwstate.dat`.
    pub view: Option<LastView>,
    /// From the output of `--wsrep-recover`.
    pub recovered: Option<Position>,
    /// Whether a server runs there.
    pub running: bool,
    /// `wsrep_cluster_status`, if that server answers.
    pub cluster_status: Option<String>,
    /// `wsrep_cluster_state_uuid` and `wsrep_last_committed` of it.
    pub committed: Option<Position>,
}

/// Reads a node's directory.
pub fn read(dir: &Path) -> io::Result<Collected> {
    // A mistyped name is a mistake and not a node of which nothing is known.
    fs::read_dir(dir)?;
    let text = |name: &str| -> io::Result<Option<String>> {
        match fs::read(dir.join(name)) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    };
    let status = text("status.txt")?.unwrap_or_default();
    let of_server =
        |name: &str| pairs(&status).find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    let committed = of_server("wsrep_cluster_state_uuid").zip(of_server("wsrep_last_committed"));
    Ok(Collected {
        name: name_of(dir),
        grastate: text("grastate.dat")?.as_deref().and_then(grastate),
        view: text("gvwstate.dat")?.as_deref().and_then(last_view),
        recovered: text("recover.txt")?.as_deref().and_then(recovered),
        running: of_server("running").is_some_and(|r| r == "yes"),
        cluster_status: of_server("wsrep_cluster_status"),
        committed: committed.and_then(|(uuid, seqno)| position(&uuid, &seqno)),
    })
}

fn name_of(dir: &Path) -> String {
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned());
    // `.` and paths that end in `..` have no name of their own.
    name.or_else(|| Some(dir.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| dir.display().to_string())
}

/// Lines of `name: value` and of `name<TAB>value`.
fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.filter_map(|line| line.split_once([':', '\t'])).map(|(name, value)| (name.trim(), value.trim()))
}

fn grastate(text: &str) -> Option<Grastate> {
    let value = |name| pairs(text).find(|(key, _)| *key == name).map(|(_, value)| value);
    Some(Grastate {
        uuid: uuid(value("uuid")?)?,
        seqno: value("seqno")?.parse().ok()?,
        safe_to_bootstrap: value("safe_to_bootstrap") == Some("1"),
    })
}

fn last_view(text: &str) -> Option<LastView> {
    let value = |name| pairs(text).find(|(key, _)| *key == name).map(|(_, value)| value);
    let members = pairs(text).filter(|(key, _)| *key == "member");
    let view_id: Vec<&str> = value("view_id")?.split_whitespace().collect();
    let view = LastView {
        my_uuid: uuid(value("my_uuid")?)?,
        number: view_id.last()?.parse().ok()?,
        view_id: view_id.join(" "),
        // Behind the identity stands the segment.
        members: members.filter_map(|(_, value)| uuid(value.split_whitespace().next()?)).collect(),
    };
    view.members.contains(&view.my_uuid).then_some(view)
}

/// The last `Recovered position: UUID:SEQNO` of a log.
fn recovered(text: &str) -> Option<Position> {
    let said = text.lines().rev().find_map(|line| line.split_once("Recovered position:"));
    let (uuid, seqno) = said?.1.split_whitespace().next()?.rsplit_once(':')?;
    position(uuid, seqno)
}

fn position(of: &str, seqno: &str) -> Option<Position> {
    // MySQL 8 appends its domain after a comma.
    let seqno = seqno.trim().split(',').next()?;
    Some(Position { uuid: uuid(of)?, seqno: seqno.parse().ok()? })
}

/// A UUID, or Galera's short form of one, in lower case.
fn uuid(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let fits = (8..=36).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    fits.then_some(text)
}

/// Whether a UUID is that of no cluster.
pub fn is_zero(uuid: &str) -> bool {
    uuid.bytes().all(|b| b == b'0' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "9c2e3a0e-6b3c-11f0-8000-0123456789ab";

    #[test]
    fn grastate_is_read_as_galera_writes_it() {
        let text = format!(
            "# GALERA saved state\nversion: 2.1\nuuid:    {A}\nseqno:   61382\nsafe_to_bootstrap: 1\n"
        );
        let expected = Grastate { uuid: A.into(), seqno: 61382, safe_to_bootstrap: true };
        assert_eq!(grastate(&text), Some(expected));
        // Before version 2.1 there was no safe_to_bootstrap.
        let old = format!("version: 2.1\nuuid: {A}\nseqno: -1\n");
        assert_eq!(grastate(&old), Some(Grastate { uuid: A.into(), seqno: -1, safe_to_bootstrap: false }));
        for bad in ["", "uuid: 9c2e\nseqno: 1", &format!("uuid: {A}"), &format!("uuid: {A}\nseqno: x")] {
            assert_eq!(grastate(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn gvwstate_is_read_as_galera_writes_it() {
        let text = "my_uuid: 00000002-0000-11f0-8000-000000000000\n#vwbeg\nview_id: 3 00000001-0000-11f0-8000-000000000000 3\n\
                    bootstrap: 0\nmember: 00000001-0000-11f0-8000-000000000000 0\nmember: 00000002-0000-11f0-8000-000000000000 0\n\
                    #vwend\n";
        let view = last_view(text).unwrap();
        assert_eq!((view.view_id.as_str(), view.number), ("3 00000001-0000-11f0-8000-000000000000 3", 3));
        assert_eq!(view.members.len(), 2);
        assert_eq!(
            last_view(&text.replace("my_uuid: 00000002", "my_uuid: 00000009")),
            None,
            "a view without itself"
        );
    }

    #[test]
    fn the_recovered_position_is_the_last_one_of_a_log() {
        let log = format!(
            "2026 [Note] WSREP: Recovered position: {A}:5\n…\n2026 [Note] WSREP: Recovered position: {A}:61380,0-1-2\n"
        );
        assert_eq!(recovered(&log), Some(Position { uuid: A.into(), seqno: 61380 }));
        assert_eq!(
            recovered("Recovered position: 00000000-0000-0000-0000-000000000000:-1").unwrap().seqno,
            -1
        );
        for bad in ["", "Recovered position:", "Recovered position: x:1", "Recovered position: 12"] {
            assert_eq!(recovered(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_directory_with_everything_in_it_is_read_and_one_that_is_not_there_is_an_error() {
        let dir = std::env::temp_dir().join(format!("viplb-files-{}", std::process::id())).join("db7");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("grastate.dat"), format!("uuid: {A}\nseqno: -1\nsafe_to_bootstrap: 0\n")).unwrap();
        let status = format!(
            "running: yes\nwsrep_cluster_status\tnon-Primary\nwsrep_cluster_state_uuid\t{A}\nwsrep_last_committed\t9\n"
        );
        fs::write(dir.join("status.txt"), status).unwrap();
        let node = read(&dir).unwrap();
        assert_eq!((node.name.as_str(), node.running), ("db7", true));
        assert_eq!(node.cluster_status.as_deref(), Some("non-Primary"));
        assert_eq!(node.committed, Some(Position { uuid: A.into(), seqno: 9 }));
        assert_eq!((node.view, node.recovered), (None, None));
        assert!(read(&dir.join("not-there")).is_err());
        fs::remove_dir_all(dir.parent().unwrap()).unwrap();
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_a_reader(text in "(uuid|seqno|member|my_uuid|view_id|Recovered position|[ :\\n\\t#0-9a-f-]|\\PC){0,60}") {
            let _ = (grastate(&text), last_view(&text), recovered(&text));
        }
    }
}
