#!/bin/sh
# Builds the tests' guest: build.sh FOLDER. Debian's cloud kernel, busybox and the files beside this one become vmlinuz, initrd
# and base.qcow2, a blank disk that machines are cloned from. Boots in seconds without KVM. What is there already stays.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$1
key=$(cat "$here"/* | sha256sum | cut -c1-16)
[ -f "$out/$key" ] && exit 0
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
chmod 755 .

if [ ! -f "$out/kernel.deb" ]; then
    kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/ *Depends: *//p' | head -n 1)
    apt-get download -qq "$kernel" >/dev/null 2>&1
    mv "$kernel"_*.deb "$out/kernel.deb.new"
    mv "$out/kernel.deb.new" "$out/kernel.deb"
fi
dpkg-deb -x "$out/kernel.deb" kernel
modules=$(find kernel/lib/modules -mindepth 1 -maxdepth 1)

mkdir -p root/bin root/dev root/proc root/sys root/tmp root/seed root/lib/modules root/www/cgi-bin root/etc
cp /bin/busybox root/bin/busybox
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover virtio_net virtio_blk \
    virtio_balloon cdrom isofs; do
    cp "$(find "$modules" -name "$module.ko" | head -n 1)" root/lib/modules/
done
cp "$here/init" root/init
cp "$here/lease" root/etc/lease
cp "$here/facts" "$here/burn" "$here/eat" "$here/take" "$here/reach" "$here/named" root/www/cgi-bin/
chmod 755 root/init root/etc/lease root/www/cgi-bin/*
(cd root && find . | cpio -o -H newc --quiet | gzip -1) >"$out/initrd.new"

cp kernel/boot/vmlinuz-* "$out/vmlinuz.new"
printf 'cloned from the base image' >base.raw
truncate -s 16M base.raw
qemu-img convert -q -f raw -O qcow2 base.raw "$out/base.qcow2.new"
for file in vmlinuz initrd base.qcow2; do mv "$out/$file.new" "$out/$file"; done
touch "$out/$key"
