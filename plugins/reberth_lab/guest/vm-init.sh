# First program of a virtual node: mounts, modules, what the outer machine has to say (a tar archive on the second
# disk), network; then the init that the namespace kind has as well. There is no systemd and no udev.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
mountpoint -q /dev || mount -t devtmpfs -o nosuid,mode=755 devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o nosuid,noexec,newinstance,ptmxmode=666,mode=620,gid=5 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /dev/shm
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /tmp
ln -sf pts/ptmx /dev/ptmx
ln -sf /proc/self/fd /dev/fd
for n in 0 1 2; do
    case $n in 0) name=stdin ;; 1) name=stdout ;; *) name=stderr ;; esac
    ln -sf "fd/$n" "/dev/$name"
done
if grep -qw lab.probe /proc/cmdline; then # only asked whether this kernel gets as far as here
    echo "lab: the kernel has started its first program" >/dev/console
    echo o >/proc/sysrq-trigger
    while :; do sleep 1; done
fi

# criu lists sockets by the *_diag modules and cannot have them loaded from inside a container's namespaces.
modprobe -a -q virtio_blk virtio_net virtio_rng tun veth bridge overlay fuse \
    unix_diag tcp_diag udp_diag inet_diag raw_diag packet_diag netlink_diag \
    nf_tables nft_compat ip_tables ip6_tables sch_netem sch_tbf
tar -x -C / --no-overwrite-dir --warning=no-timestamp </dev/vda
. /etc/reberth-lab/network # $address, $control and $outer
hostname -F /etc/hostname
ip link set lo up
ip addr add "$address/24" dev eth0
ip link set eth0 up
ip addr add "$control" peer "$outer" dev eth1 # a cable of its own for the tests: the node's link may be cut
ip link set eth1 up
touch /run/lab-ready
exec 0</dev/null 1>>/var/log/lab-init.log 2>&1
exec python3 -I -S /usr/local/lib/reberth-lab/init.py
