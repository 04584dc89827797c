#!/bin/sh
# A file system of its own to measure on: an image file, mounted by a loop. Needs root.
#
#   bench/disk.sh ext4 /tmp/bench-ext4 8G       make /tmp/bench-ext4.img, mount it on /tmp/bench-ext4
#   bench/disk.sh --remove /tmp/bench-ext4      unmount, and remove both
#
# ext4, xfs or btrfs. The image takes its whole size at once, so that no write waits for room to be
# found in the file system below. What a sync costs is what it costs there.
set -eu

fail() {
    echo "disk.sh: $*" >&2
    exit 2
}

usage() {
    fail "use: disk.sh ext4|xfs|btrfs DIRECTORY SIZE, or: disk.sh --remove DIRECTORY"
}

remove() {
    [ -f "$1.img" ] || fail "there is no $1.img: it was not made by this script"
    if mountpoint -q "$1"; then umount "$1"; fi
    rm "$1.img"
    rmdir "$1"
}

make() {
    case $1 in
    ext4) set -- "$@" -q -F ;;
    xfs) set -- "$@" -q -f ;;
    btrfs) set -- "$@" -q -f ;;
    *) fail "$1 is none of ext4, xfs and btrfs" ;;
    esac
    kind=$1 directory=$2 size=$3
    shift 3
    command -v "mkfs.$kind" >/dev/null || fail "there is no mkfs.$kind; Debian has it in e2fsprogs, xfsprogs and btrfs-progs"
    [ ! -e "$directory" ] && [ ! -e "$directory.img" ] || fail "$directory or $directory.img is there already"
    trap 'rm -f "$directory.img"; rmdir "$directory" 2>/dev/null || :' EXIT
    mkdir "$directory"
    fallocate -l "$size" "$directory.img"
    "mkfs.$kind" "$@" "$directory.img" >/dev/null
    # Discards would punch holes into the image. And btrfs takes most loops for disks that spin: there it lets a
    # sync wait a tick of the kernel's clock for those of other processes.
    options=loop,nodiscard
    if [ "$kind" = btrfs ]; then options=$options,ssd; fi
    mount -o "$options" "$directory.img" "$directory"
    trap - EXIT
    echo "$directory is $kind now; afterwards: $0 --remove $directory"
}

[ "$(id -u)" = 0 ] || fail "only root can mount"
case $#,${1-} in
2,--remove) remove "${2%/}" ;;
3,*) make "$1" "${2%/}" "$3" ;;
*) usage ;;
esac
