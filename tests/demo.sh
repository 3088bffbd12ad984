#!/bin/bash
# The demonstration behind `make demo`: a disk written in Python, used as a disk, then taken away.
#
#   tests/demo.sh [PYDISK]        PYDISK: the binary (target/release/pydisk)
#
# As root, or where sudo works, the disk is a block device with a mounted ext4. Without, it is a file
# through FUSE, and ext4 is made and used inside that file, which needs nobody's leave.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
pydisk=$(readlink -f "${1:-target/release/pydisk}")
plugin=examples/ramdisk.py
PATH=$PATH:/usr/sbin:/sbin

say() {
  printf '\n%s\n' "$*"
}

# Show a command as it can be typed, then run it.
run() {
  printf '  $ %s\n' "${*/#"$pydisk"/pydisk}"
  "$@" 2>&1 | sed 's/^/    /'
}

as_root=()
if [[ $(id -u) -ne 0 ]] && command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
  # PATH is kept, since it names the Python that pydisk was built for.
  as_root=(sudo env "PATH=$PATH")
fi
privileged=no
if [[ $(id -u) -eq 0 || ${#as_root[@]} -gt 0 ]]; then
  privileged=yes
fi

work=$(mktemp -d)
device=""
mounted=no
# shellcheck disable=SC2317 # called by the trap
cleanup() {
  local status=$?
  if [[ $mounted == yes ]]; then
    "${as_root[@]}" umount "$work/mnt" || true
  fi
  if [[ -n $device ]]; then
    "${as_root[@]}" "$pydisk" detach "$device" || true
  fi
  rm -rf --one-file-system "$work"
  if [[ $status -ne 0 ]]; then
    echo "demo: a step failed with status $status; nothing is left attached" >&2
  fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

say "1. Attach $plugin: $(wc -l <"$plugin") lines of Python become a disk of 256 MiB."
echo "  \$ pydisk attach $plugin size=256M"
device=$("${as_root[@]}" "$pydisk" attach "$plugin" size=256M)
echo "    $device"

say "2. pydisk knows it."
run "${as_root[@]}" "$pydisk" list

printf 'Hello from a disk written in Python, %s\n' "$(date)" >"$work/hello.txt"
if [[ $privileged == yes && -b $device ]]; then
  say "3. Put ext4 on it and mount it, like any disk."
  run "${as_root[@]}" mkfs.ext4 -q "$device"
  mkdir "$work/mnt"
  run "${as_root[@]}" mount "$device" "$work/mnt"
  mounted=yes

  say "4. Write a file and a copy of this project's source; unmount, check, mount again, compare."
  run "${as_root[@]}" cp "$work/hello.txt" "$work/mnt/hello.txt"
  run "${as_root[@]}" cp -r src "$work/mnt/src"
  run "${as_root[@]}" umount "$work/mnt"
  mounted=no
  run "${as_root[@]}" fsck.ext4 -fn "$device"
  run "${as_root[@]}" mount "$device" "$work/mnt"
  mounted=yes
  run cmp "$work/hello.txt" "$work/mnt/hello.txt"
  run diff -r src "$work/mnt/src"
  run cat "$work/mnt/hello.txt"
  run df -h "$work/mnt"
  run "${as_root[@]}" umount "$work/mnt"
  mounted=no
else
  say "3. Put ext4 into it. It is a file and not a block device, so debugfs writes and reads there."
  run "${as_root[@]}" mkfs.ext4 -q -F "$device"

  say "4. Write a file, check the filesystem, read the file back, compare."
  run "${as_root[@]}" debugfs -w -R "write $work/hello.txt hello.txt" "$device"
  run "${as_root[@]}" fsck.ext4 -fn "$device"
  run "${as_root[@]}" debugfs -R "dump hello.txt $work/read-back.txt" "$device"
  run cmp "$work/hello.txt" "$work/read-back.txt"
  run cat "$work/read-back.txt"
fi

say "5. Detach: the disk is gone, and with it what Python kept in memory."
attached=$device
device=""
run "${as_root[@]}" "$pydisk" detach "$attached"
run "${as_root[@]}" "$pydisk" list

say "Done: $plugin was $attached, held an ext4 filesystem, gave back what was written, and is detached."
