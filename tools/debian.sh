#!/bin/sh
# Installs Debian packages, where it may; says what is missing where it may not. tools/debian.sh [hypervisor]: what a hypervisor of
# one's own takes, else that and all that the tests compare with. Never fails: a test whose oracle is missing is skipped, and says so.
set -u
hypervisor="libvirtd:libvirt-daemon-system virsh:libvirt-clients qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils \
    dnsmasq:dnsmasq-base busybox:busybox-static cpio:cpio ip:iproute2 tc:iproute2 nft:nftables iptables:iptables ebtables:ebtables \
    wget:wget gcc:gcc pkg-config:pkg-config"
oracles="tshark:tshark tcpdump:tcpdump nfdump:nfdump nfpcapd:nfdump capinfos:wireshark-common editcap:wireshark-common \
    zstd:zstd git:git ovs-vsctl:openvswitch-switch softflowd:softflowd tcpreplay:tcpreplay \
    prometheus:prometheus victoria-metrics:victoria-metrics influxd:influxdb redis-server:redis-server ping:iputils-ping ethtool:ethtool \
    chromium:chromium haproxy:haproxy xsltproc:xsltproc xmllint:libxml2-utils"
pairs=$hypervisor
[ "${1:-}" = hypervisor ] || pairs="$hypervisor $oracles"
PATH=$PATH:/usr/sbin:/sbin
wanted=""
for pair in $pairs; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || case " $wanted " in *" ${pair##*:} "*) ;; *) wanted="$wanted ${pair##*:}" ;; esac
done
# What libvirt's Python library is compiled with.
[ -e /usr/include/libvirt/libvirt.h ] || wanted="$wanted libvirt-dev"
ls /usr/include/python3*/Python.h >/dev/null 2>&1 || wanted="$wanted python3-dev"
if [ "${1:-}" != hypervisor ]; then
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || wanted="$wanted postgresql"
fi
[ -z "$wanted" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing from Debian:$wanted"
    apt-get update -qq >/dev/null 2>&1
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted >/dev/null 2>&1 && exit 0
fi
echo "missing:$wanted; what takes them is skipped. As root: apt-get install$wanted" >&2
exit 0
