#!/bin/busybox sh
# First process of the guest of `cargo xtask vm`: mounts the host's root, read-only, with a layer of memory on top, and runs
# /cmd in it. /env says where the kernel's modules are on the host. The exit status leaves by QEMU's isa-debug-exit.
/bin/busybox --install -s /bin
export PATH=/bin

leave() {
    sync
    # The device makes (value << 1) | 1 of it; 16 and more, so that no failure of QEMU's own looks the same.
    printf "\\$(printf %03o $(($1 + 16)))" | dd of=/dev/port bs=1 seek=244 2>/dev/null
    poweroff -f
}

mkdir -p /proc /sys /dev /host /layer /new
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
. /env
for module in /modules/*.ko; do insmod "$module"; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /host || leave 100
mount -t tmpfs layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /new || leave 100
release=$(uname -r)
mkdir -p "/new/lib/modules/$release" /new/proc /new/sys /new/dev /new/run /new/tmp
mount -t proc proc /new/proc
mount -t sysfs sys /new/sys
mount -t devtmpfs dev /new/dev
mkdir -p /new/dev/pts
mount -t devpts pts /new/dev/pts
mount -t tmpfs run /new/run
mount -t tmpfs tmp /new/tmp
mount -t bpf bpf /new/sys/fs/bpf
mount -t cgroup2 cgroup /new/sys/fs/cgroup
mount --bind "/host$MODULES" "/new/lib/modules/$release" || leave 100
ifconfig lo up
cp /cmd /new/run/cmd
echo "Linux $release is up after $(cut -d' ' -f1 /proc/uptime) s"
chroot /new /bin/sh /run/cmd </dev/null
leave $?
