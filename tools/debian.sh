#!/bin/sh
# Installs the Debian packages that the tests compare with, where it may; says what is missing where it may not.
# Never fails: a test whose oracle is missing is skipped, and says so.
set -u
wanted=""
for pair in tshark:tshark tcpdump:tcpdump nfdump:nfdump nfpcapd:nfdump capinfos:wireshark-common editcap:wireshark-common \
    zstd:zstd ip:iproute2 tc:iproute2 git:git nft:nftables ovs-vsctl:openvswitch-switch softflowd:softflowd tcpreplay:tcpreplay \
    prometheus:prometheus victoria-metrics:victoria-metrics influxd:influxdb redis-server:redis-server ping:iputils-ping ethtool:ethtool \
    chromium:chromium haproxy:haproxy; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || case " $wanted " in *" ${pair##*:} "*) ;; *) wanted="$wanted ${pair##*:}" ;; esac
done
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || wanted="$wanted postgresql"
[ -z "$wanted" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing from Debian:$wanted"
    apt-get update -qq >/dev/null 2>&1
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >/dev/null 2>&1 && exit 0
fi
echo "missing:$wanted; tests that compare with them are skipped. As root: apt-get install$wanted" >&2
exit 0
