#!/usr/bin/env bash
# N hosts on one machine, without containers: each with a network, processes, /etc, home, /tmp/ray and /dev/shm of its own,
# and an sshd. All live in one sandbox, from which no packet gets out, and end with it.
#
#   hosts.sh N COMMAND...     COMMAND runs as a laptop beside them (10.77.0.1); the hosts are host1.. at 10.77.0.11..
#
# COMMAND may make further ones by the function `host NAME ADDRESS PUBLIC_KEY`; `hold` suspends all that generates on
# them. Needs root, openssh-server, openssh-client, rsync, iproute2, util-linux. Reads HOSTS_ROOT (a folder for all that
# is theirs), HOSTS_BIN (first on every PATH), HOSTS_ENV ("NAME=VALUE ..." in every login), HOSTS_HUB and HOSTS_NET (the
# laptop's address, the network's bits).
set -euo pipefail

if [ "${INSIDE:-}" != 1 ]; then
  exec env INSIDE=1 unshare --net --pid --mount --uts --ipc --fork --kill-child --mount-proc "$BASH" "$0" "$@"
fi
count=$1
shift
export root=$HOSTS_ROOT hub=${HOSTS_HUB:-10.77.0.1} net=${HOSTS_NET:-24}
mount --make-rprivate /
ip link set lo up
ip link add hub type bridge
ip addr add "$hub/$net" dev hub
ip link set hub up
# Ray keeps sockets of ssh under a name made from the user's: a folder a host, or one would meet another's.
export sockets=/tmp/ray_ssh_$(id -un | tr -d '\n' | sha256sum | cut -c1-10)
mkdir -p "$root/laptop"/{home,ray,ssh} /tmp/ray "$sockets" /run/sshd
mount --bind "$root/laptop/ray" /tmp/ray
mount --bind "$root/laptop/ssh" "$sockets"
hostname laptop
ssh-keygen -q -t ed25519 -N '' -f "$root/key"

host() { # NAME ADDRESS PUBLIC_KEY
  local folder=$root/$1 outer inner
  mkdir -p "$folder"/{home,ray,ssh}
  # All of /etc: a mount upon one file falls off when a package manager puts a new one in its place.
  cp -a /etc "$folder/etc"
  sed -i "s#^root:.*#root:x:0:0:root:$folder/home:/bin/bash#" "$folder/etc/passwd"
  printf '127.0.0.1 localhost\n%s %s\n' "$2" "$1" >"$folder/etc/hosts"
  # A raylet gives up where its agent isn't up within 15 s, which no setting changes. Linux shares cores among sessions:
  # without its priority, a login of a host would have a tenth of them beside all that other tests run.
  cat >"$folder/home/.bashrc" <<LOGIN
{ echo -15 >/proc/self/autogroup; } 2>/dev/null
export PATH=$HOSTS_BIN:\$PATH ${HOSTS_ENV:-}
LOGIN
  cp "$3" "$folder/authorized_keys"
  ssh-keygen -q -t ed25519 -N '' -f "$folder/hostkey"
  cat >"$folder/sshd_config" <<CONFIG
ListenAddress $2
HostKey $folder/hostkey
AuthorizedKeysFile $folder/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxSessions 100
MaxStartups 100
PerSourcePenalties no
CONFIG
  unshare --net --pid --mount --uts --ipc --fork --kill-child --mount-proc bash -c '
    set -e
    hostname "$1"
    ip link set lo up
    mount --bind "$3/ray" /tmp/ray
    mount --bind "$3/ssh" "$4"
    mount --bind "$3/etc" /etc
    mount -t tmpfs -o size=2g tmpfs /dev/shm
    until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
    ip addr add "$2/$6" dev eth0
    ip link set eth0 up
    ip route add default via "$5"
    exec /usr/sbin/sshd -D -e -f "$3/sshd_config"' _ "$1" "$2" "$folder" "$sockets" "$hub" "$net" >"$folder/sshd.log" 2>&1 &
  outer=$!
  echo $outer >"$folder/pid" # killing it is pulling the plug
  until inner=$(pgrep -P $outer) && [ "$(readlink "/proc/$inner/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do
    sleep 0.05
  done
  ip link add "to-$inner" type veth peer name eth0 netns "$inner"
  ip link set "to-$inner" master hub up
  until (exec 3<>"/dev/tcp/$2/22") 2>/dev/null; do sleep 0.05; done
}
for n in $(seq 1 "$count"); do host "host$n" "10.77.0.1$n" "$root/key.pub"; done

# On a busy machine all would be generated before a loss has been arranged.
hold() { pkill -STOP -f '^ray::MapWorker'; }
export -f host hold
export HOME=$root/laptop/home PATH=$HOSTS_BIN:$PATH
status=0
"$@" || status=$?
exit $status # the sandbox's first process ends, and the kernel ends all others
