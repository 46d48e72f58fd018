#!/bin/sh
# Makes the lab's container image out of what the node has: a static busybox and the counter. Nothing is downloaded.
# lxd-image.sh COUNTER.c INTO
set -eu
at=$(mktemp -d); root=$at/rootfs
for directory in bin sbin dev proc sys run tmp etc root var/log mnt; do mkdir -p "$root/$directory"; done
chmod 1777 "$root/tmp"
cp /bin/busybox "$root/bin/busybox"
for name in sh ls cat ps mount umount sleep kill ip nc tail head echo date grep mkdir rm df poweroff halt reboot; do
  ln -s busybox "$root/bin/$name"
done
gcc -O2 -static -o "$root/bin/counter" "$1"
cat >"$root/sbin/init" <<'I'
#!/bin/sh
# Starts the counter and ends with it; a restore interrupts `wait`, so it is asked again.
PATH=/bin:/sbin
words="16 1"
[ -r /etc/counter ] && read -r words </etc/counter
counter $words </dev/null >/run/counter.log 2>&1 &
child=$!
trap 'kill $child; exit 0' TERM PWR
while kill -0 $child 2>/dev/null; do wait $child; done
I
chmod 755 "$root/sbin/init"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
: >"$root/etc/resolv.conf"
echo counter >"$root/etc/hostname"
printf 'architecture: %s\ncreation_date: %s\nproperties: {os: busybox, release: lab, description: counter}\n' \
  "$(uname -m)" "$(date +%s)" >"$at/metadata.yaml"
tar -C "$at" -czf "$2" metadata.yaml rootfs
rm -rf "$at"
