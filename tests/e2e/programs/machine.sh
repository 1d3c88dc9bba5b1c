#!/bin/sh
# A machine as far as systemd needs one: namespaces of its own, in which it is PID 1. Usage: machine.sh PLACE NAME
# PLACE has root/, with what is to be other than here: etc, var, and empty directories for the rest of /. NAME is that of
# the control group. Run it as root, in a mount namespace of its own; the end of systemd is its end.
set -eu
place=$1 name=$2

if [ "${3:-}" != inside ]; then
    mkdir "$place/cgroup"
    mount -t cgroup2 cgroup2 "$place/cgroup"
    mkdir "$place/cgroup/$name"
    unshare --pid --fork --kill-child --mount --ipc --uts --net sh "$0" "$place" "$name" inside || true
    find "$place/cgroup/$name" -depth -type d -exec rmdir {} \;
    exit
fi

ip link set lo up
echo 0 >"$place/cgroup/$name/cgroup.procs"
mount --bind "$place/root" "$place/root"
cd "$place/root"
for one in *; do
    case $one in
    etc | var) ;;
    dev | run) mount -t tmpfs tmpfs "$one" ;;
    proc) mount -t proc proc proc ;;
    sys) mount -t sysfs -o ro sysfs sys ;;
    *) [ -L "$one" ] || mount --rbind "/$one" "$one" ;;
    esac
done
for one in null zero full random urandom tty; do
    : >"dev/$one"
    mount --bind "/dev/$one" "dev/$one"
done
mkdir dev/pts dev/shm run/old
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs tmpfs dev/shm
pivot_root . run/old
# Only from here on is the group that this is in the root of what can be seen: cgroup_namespaces(7).
exec unshare --cgroup sh -euc '
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    umount --lazy /run/old
    rmdir /run/old
    exec env -i container=test SYSTEMD_UNIT_PATH=/etc/systemd/system SYSTEMD_GENERATOR_PATH=/none \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --system --show-status=no'
