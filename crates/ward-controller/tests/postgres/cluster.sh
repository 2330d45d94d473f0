# A private PostgreSQL, on a socket in a directory of its own, for as long as standard input stays open: whoever started
# it may be killed, and still nothing is left. Says the directory when it answers.
set -eu
cd /
bin=$1
directory=$(mktemp -d "${TMPDIR:-/tmp}/ward-pg.XXXXXX")
server=
end() {
    [ -z "$server" ] || { kill -INT "$server" && wait "$server" || true; }
    rm -rf "$directory"
}
trap end EXIT
trap 'exit 1' HUP INT TERM
"$bin/initdb" -D "$directory/data" -U ward -A trust -E UTF8 --locale=C -N >"$directory/log" 2>&1 ||
    { cat "$directory/log" >&2; exit 1; }
"$bin/postgres" -D "$directory/data" -k "$directory" -c listen_addresses= -c fsync=off -c max_connections=300 \
    </dev/null >>"$directory/log" 2>&1 &
server=$!
until "$bin/pg_isready" -q -h "$directory"; do
    kill -0 "$server" 2>/dev/null || { cat "$directory/log" >&2; exit 1; }
    sleep 0.05
done
echo "$directory"
cat >/dev/null
