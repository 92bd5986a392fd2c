# Namespaces, control groups and servers of the shop; sourced by record.sh
# and by benchmarks/roles/measure.sh. Nothing here touches the network of the
# machine itself: every interface is made inside a namespace of its own.
#
#   clients ==(delay line, 10 ms each way)== router == web-1, web-2 (10.20.1.0/24)
#                                                   == db, cache    (10.20.2.0/24)
#
# Needs: HERE (folder of this file), P (name prefix), TMP (temporary folder).

PG_BIN=${PG_BIN:-$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)}
PY=${PY:-/usr/bin/python3}
NICE=${NICE:--10}
VMS="web-1 web-2 db cache"
PIDS=()

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

address_of() {
  case $1 in
    web-1) echo 10.20.1.10;; web-2) echo 10.20.1.11;;
    db) echo 10.20.2.10;; cache) echo 10.20.2.11;;
  esac
}

need() {
  [ "$(id -u)" = 0 ] || die "must run as root: it makes network namespaces and control groups"
  local t
  for t in ip tc nsenter ethtool tcpdump zstd nginx redis-server setpriv "$PY"; do
    command -v "$t" >/dev/null || die "missing: $t (Debian: apt-get install iproute2 ethtool tcpdump zstd nginx-light redis-server postgresql python3)"
  done
  [ -n "$PG_BIN" ] && [ -x "$PG_BIN/initdb" ] || die "missing: PostgreSQL (Debian: apt-get install postgresql)"
  [ -c /dev/net/tun ] || die "missing: /dev/net/tun"
}

# --- control groups: version 1 (cpuacct + memory) or version 2 -------------
groups_up() {
  local own vm
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    CG_KIND=2
    CG_CPU=/sys/fs/cgroup/$P; CG_MEM=$CG_CPU
    echo "+cpu +memory" > /sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
    mkdir -p "$CG_CPU"
    echo "+cpu +memory" > "$CG_CPU/cgroup.subtree_control" 2>/dev/null || true
  else
    CG_KIND=1
    [ -d /sys/fs/cgroup/cpuacct ] && [ -d /sys/fs/cgroup/memory ] || die "no usable control groups (cpuacct and memory)"
    own=$(awk -F: '$2 ~ /(^|,)cpuacct(,|$)/ {print $3}' /proc/self/cgroup)
    CG_CPU=/sys/fs/cgroup/cpuacct${own%/}/$P
    own=$(awk -F: '$2=="memory" {print $3}' /proc/self/cgroup)
    CG_MEM=/sys/fs/cgroup/memory${own%/}/$P
  fi
  for vm in $VMS; do mkdir -p "$CG_CPU/$vm" "$CG_MEM/$vm"; done
}

groups_down() {
  local vm
  [ -n "${CG_CPU:-}" ] || return 0
  for vm in $VMS; do
    rmdir "$CG_CPU/$vm" 2>/dev/null || true
    rmdir "$CG_MEM/$vm" 2>/dev/null || true
  done
  rmdir "$CG_CPU" 2>/dev/null || true
  rmdir "$CG_MEM" 2>/dev/null || true
}

# in_net NAMESPACE COMMAND...: run in a namespace
in_net() { local n=$1; shift; nsenter --net="/run/netns/$P$n" "$@"; }

# exec_net NAMESPACE COMMAND... &: the same in the background, so that $! is the command's own
exec_net() { local n=$1; shift; exec nsenter --net="/run/netns/$P$n" "$@"; }

# in_vm VM COMMAND... &: run in a VM's namespace and control groups, in the background
in_vm() {
  local vm=$1; shift
  exec nsenter --net="/run/netns/$P$vm" nice -n "$NICE" sh -c \
    'echo $$ > "$1/cgroup.procs"; [ "$1" = "$2" ] || echo $$ > "$2/cgroup.procs"; shift 2; exec "$@"' \
    sh "$CG_CPU/$vm" "$CG_MEM/$vm" "$@"
}

quiet_iface() { # namespace interface: real checksums and MTU-sized packets
  in_net "$1" ethtool -K "$2" tso off gso off gro off tx off rx off sg off >/dev/null 2>&1 || true
}

# --- network ----------------------------------------------------------------
net_up() {
  local n vm r="ip -n ${P}router" a port mac
  for n in router clients $VMS; do
    ip netns add "$P$n"
    in_net "$n" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 2>/dev/null || true
    ip -n "$P$n" link set lo up
  done
  in_net router sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0
  # the capture's own wire: copies of what each port of the router receives
  $r link add mon0 type veth peer name mon1
  $r link set mon0 mtu 9000 arp off up
  $r link set mon1 mtu 9000 arp off up
  for n in web data; do $r link add "br-$n" type bridge; done
  $r addr add 10.20.1.1/24 dev br-web
  $r addr add 10.20.2.1/24 dev br-data
  $r link set br-web address 02:00:0a:14:01:01 up
  $r link set br-data address 02:00:0a:14:02:01 up
  for vm in $VMS; do
    a=$(address_of "$vm"); port="p-$vm"
    # shellcheck disable=SC2086
    mac=$(printf '02:00:%02x:%02x:%02x:%02x' ${a//./ })
    $r link add "$port" type veth peer name eth0 netns "$P$vm"
    ip -n "$P$vm" link set eth0 address "$mac"
    ip -n "$P$vm" addr add "$a/24" dev eth0
    ip -n "$P$vm" link set eth0 up
    case $vm in web-*) $r link set "$port" master br-web;; *) $r link set "$port" master br-data;; esac
    $r link set "$port" up
    ip -n "$P$vm" route add default via "${a%.*}.1"
    quiet_iface router "$port"; quiet_iface "$vm" eth0
    copy_ingress "$port"
  done
  # the way to the clients: two TAP devices joined by the delay line
  $r tuntap add dev wan0 mode tap
  $r link set wan0 address 02:00:c6:33:64:01
  $r addr add 198.51.100.1/24 dev wan0
  $r link set wan0 txqueuelen 10000 up
  ip -n "${P}clients" tuntap add dev eth0 mode tap
  ip -n "${P}clients" link set eth0 address 02:00:c6:33:64:02
  ip -n "${P}clients" link set eth0 txqueuelen 10000 up
  for n in $(seq 10 249); do echo "addr add 198.51.100.$n/24 dev eth0"; done | ip -n "${P}clients" -batch -
  ip -n "${P}clients" route add default via 198.51.100.1
  quiet_iface router wan0; quiet_iface clients eth0
  copy_ingress wan0
  # an address nobody has, and that never answers
  $r route add blackhole 10.20.1.77/32
  nice -n -12 "$PY" "$HERE/wire.py" "${P}router" wan0 "${P}clients" eth0 "${WIRE_MS:-10}" 2>"$TMP/wire.log" &
  PIDS+=($!)
  sleep 0.5
}

copy_ingress() {
  tc -n "${P}router" qdisc add dev "$1" ingress
  tc -n "${P}router" filter add dev "$1" parent ffff: protocol all u32 match u32 0 0 action mirred egress mirror dev mon0
}

# --- servers ----------------------------------------------------------------
wait_port() { # namespace address port
  local i
  for i in $(seq 100); do
    in_net "$1" "$PY" -c "import socket,sys; socket.create_connection((sys.argv[1],int(sys.argv[2])),1)" "$2" "$3" 2>/dev/null && return 0
    sleep 0.1
  done
  die "no server at $2:$3 after 10 s"
}

start_redis() {
  mkdir -p "$TMP/cache"
  in_vm cache redis-server --bind 10.20.2.11 --port 6379 --protected-mode no --dir "$TMP/cache" \
    --daemonize no --maxmemory 64mb --maxmemory-policy allkeys-lru >"$TMP/redis.log" 2>&1 &
  PIDS+=($!)
  wait_port cache 10.20.2.11 6379
}

start_postgres() { # needs $TMP/shop.sql
  mkdir -p "$TMP/db"; chown postgres "$TMP/db"; chmod 711 "$TMP"
  local as="setpriv --reuid=postgres --regid=postgres --init-groups"
  (cd "$TMP/db"; $as "$PG_BIN/initdb" -D "$TMP/db/data" -A trust -E UTF8 --locale=C >"$TMP/initdb.log" 2>&1)
  cat >> "$TMP/db/data/postgresql.conf" <<CONF
listen_addresses = '10.20.2.10'
unix_socket_directories = '$TMP/db'
shared_buffers = 128MB
max_connections = 60
CONF
  echo "host all all 10.20.0.0/16 trust" >> "$TMP/db/data/pg_hba.conf"
  (cd "$TMP/db"; in_vm db $as "$PG_BIN/postgres" -D "$TMP/db/data" >"$TMP/postgres.log" 2>&1) &
  PIDS+=($!)
  wait_port db 10.20.2.10 5432
  sleep 0.5
  in_net db $as "$PG_BIN/psql" -q -v ON_ERROR_STOP=1 -h 10.20.2.10 -U postgres -d postgres -f "$TMP/shop.sql" >/dev/null
}

start_web() { # vm; needs $TMP/www
  local vm=$1 d="$TMP/$1" a; a=$(address_of "$vm")
  mkdir -p "$d/tmp"; cp -a "$TMP/www" "$d/www"
  cat > "$d/nginx.conf" <<CONF
daemon off;
user www-data;
worker_processes 2;
pid $d/nginx.pid;
error_log $d/error.log warn;
events { worker_connections 4096; }
http {
  types { text/html html; text/css css; application/javascript js; image/jpeg jpg; }
  default_type application/octet-stream;
  access_log $d/access.log;
  sendfile on; tcp_nopush on; if_modified_since before;
  keepalive_timeout 65; keepalive_requests 1000;
  gzip on; gzip_proxied any;
  client_body_temp_path $d/tmp/b; proxy_temp_path $d/tmp/p; fastcgi_temp_path $d/tmp/f;
  uwsgi_temp_path $d/tmp/u; scgi_temp_path $d/tmp/s;
  upstream app { server unix:$d/app.sock; keepalive 16; }
  server {
    listen $a:80 backlog=1024;
    location /static/ { root $d/www; }
    location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host \$host; proxy_set_header X-Forwarded-For \$remote_addr; }
  }
}
CONF
  if [ "${2:-app}" = app ]; then
    in_vm "$vm" "$PY" "$HERE/app.py" "$d/app.sock" "${SEED:-1}${vm#web-}" >"$TMP/app-$vm.log" 2>&1 &
    PIDS+=($!)
  fi
  in_vm "$vm" nginx -e "$d/error.log" -c "$d/nginx.conf" >"$TMP/nginx-$vm.log" 2>&1 &
  PIDS+=($!)
  wait_port "$vm" "$a" 80
}

# what usage.py needs to know
usage_config() {
  "$PY" - "$CG_KIND" "$CG_CPU" "$CG_MEM" "$TMP" "$P" $VMS <<'PYTHON'
import json, sys
kind, cpu, mem, tmp, p, *vms = sys.argv[1:]
# cores and memory of the machine types named in shop.yaml
size = {"web-1": (2, 8 << 30), "web-2": (2, 8 << 30), "db": (4, 16 << 30), "cache": (2, 8 << 30)}
print(json.dumps([{"vm": v, "kind": int(kind), "cpu": f"{cpu}/{v}", "mem": f"{mem}/{v}", "folder": f"{tmp}/{v}",
                   "cores": size[v][0], "memory": size[v][1]} for v in vms]))
PYTHON
}

# --- cleaning up --------------------------------------------------------------
group_pids() {
  local vm
  [ -n "${CG_CPU:-}" ] || return 0
  for vm in $VMS; do cat "$CG_CPU/$vm/cgroup.procs" 2>/dev/null || true; done
}

harness_down() {
  set +e
  trap - EXIT INT TERM HUP
  local pid n i
  for pid in "${PIDS[@]:-}"; do [ -n "$pid" ] && kill "$pid" 2>/dev/null; done
  for pid in $(group_pids); do kill "$pid" 2>/dev/null; done
  for i in $(seq 30); do [ -z "$(group_pids)" ] && break; sleep 0.1; done
  for pid in $(group_pids); do kill -9 "$pid" 2>/dev/null; done
  for pid in "${PIDS[@]:-}"; do [ -n "$pid" ] && wait "$pid" 2>/dev/null; done
  for i in $(seq 30); do [ -z "$(group_pids)" ] && break; sleep 0.1; done
  for n in router clients $VMS; do ip netns del "$P$n" 2>/dev/null; done
  groups_down
  case ${TMP:-} in /tmp/?*|/var/tmp/?*) rm -rf "$TMP";; esac
}
