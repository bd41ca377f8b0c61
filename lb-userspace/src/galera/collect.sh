#!/bin/sh
# Collects what `viplb galera restart-plan` needs to know of this node. Run it on every node of the cluster, then copy
# the directories to one place:
#
#   sh collect.sh [DIRECTORY]         # default: ./HOSTNAME
#
# It changes nothing on the node. A crashed node's position comes out of `--wsrep-recover`, which runs InnoDB's
# recovery and may take minutes; it needs the rights of the server (run as root).
#
# DATADIR      data directory            default: the server's own setting, or /var/lib/mysql
# SERVER       the server program        default: mariadbd or mysqld
# SERVER_ARGS  further arguments of it   e.g. --defaults-file=/etc/my.cnf
# CLIENT       the client with options   default: mariadb or mysql
set -u

out=${1:-./$(uname -n)}
first() {
    for name in "$@"; do
        command -v "$name" && return 0
    done
    for name in "$@"; do
        [ -x "/usr/sbin/$name" ] && echo "/usr/sbin/$name" && return 0
        [ -x "/usr/libexec/$name" ] && echo "/usr/libexec/$name" && return 0
    done
    return 1
}
SERVER=${SERVER:-$(first mariadbd mysqld)} || { echo "no mariadbd or mysqld: set SERVER" >&2; exit 2; }
CLIENT=${CLIENT:-$(first mariadb mysql)} || CLIENT=false
SERVER_ARGS=${SERVER_ARGS:-}
if [ -z "${DATADIR:-}" ]; then
    # shellcheck disable=SC2086 # words, not one argument
    DATADIR=$("$SERVER" $SERVER_ARGS --verbose --help 2>/dev/null | awk '$1 == "datadir" { print $2; exit }')
fi
DATADIR=${DATADIR:-/var/lib/mysql}
[ -d "$DATADIR" ] || { echo "no data directory $DATADIR: set DATADIR" >&2; exit 2; }
mkdir -p "$out" || exit 2
rm -f "$out/grastate.dat" "$out/gvwstate.dat" "$out/recover.txt" "$out/status.txt"

for file in grastate.dat gvwstate.dat; do
    if [ -e "$DATADIR/$file" ]; then
        cp "$DATADIR/$file" "$out/$file" || exit 2
    fi
done

# A server holds a lock on its system tablespace as long as it lives.
running=no
if [ -e "$DATADIR/ibdata1" ]; then
    inode=$(ls -i "$DATADIR/ibdata1" | awk '{ print $1 }')
    if [ -r /proc/locks ] && grep -q ":$inode " /proc/locks; then
        running=yes
    fi
fi
# shellcheck disable=SC2086
if status=$($CLIENT --batch --skip-column-names --execute "SHOW GLOBAL STATUS LIKE 'wsrep_%'" 2>/dev/null); then
    running=yes
else
    status=
fi
{
    echo "running: $running"
    echo "$status"
} > "$out/status.txt"

if [ "$running" = no ] && grep -q '^seqno:[[:space:]]*-1' "$out/grastate.dat" 2>/dev/null; then
    log=$(mktemp) || exit 2
    chmod 666 "$log"
    # shellcheck disable=SC2086
    "$SERVER" $SERVER_ARGS --datadir="$DATADIR" --wsrep-recover --log-error="$log" > "$out/recover.txt" 2>&1
    cat "$log" >> "$out/recover.txt"
    rm -f "$log"
    grep -q 'Recovered position' "$out/recover.txt" || echo "no position was recovered; see $out/recover.txt" >&2
fi
echo "collected $out"
