#!/usr/bin/env bash
# Slurm on host1 and host2 with its controller here, and a batch job that is cancelled in the middle and
# submitted again: slurm.sh SCRIPT RECIPE OUT
set -euo pipefail
script=$1 recipe=$2 out=$3
lap() { echo "== $SECONDS s: $*"; }
shards() { find "$out" -name '*_stats.json' 2>/dev/null | wc -l; }
ssh() { command ssh -i "$root/key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "$@"; }

# Every machine knows the others' names, and asks no name server, which nobody could reach from here.
names=$(printf '%s\n' '10.77.0.1 laptop' '10.77.0.11 host1' '10.77.0.12 host2')
cp -a /etc "$root/laptop/etc"
mount --bind "$root/laptop/etc" /etc
printf '127.0.0.1 localhost\n%s\n' "$names" >/etc/hosts
: >/etc/resolv.conf

# A path of a socket may have no more than 107 characters, so sockets don't lie below the test's own folder.
short=$(mktemp -d /tmp/slurm.XXXXXX)
trap 'rm -rf "$short"' EXIT
head -c 128 /dev/urandom >"$short/key"
chmod 600 "$short/key"
munged --force --key-file="$short/key" --socket="$short/socket" --pid-file="$short/pid" --seed-file="$short/seed" \
  --log-file="$root/munge.log"

# The nodes are said to be as large as the script asks for.
export SLURM_CONF=$root/slurm.conf
cat >"$SLURM_CONF" <<CONFIG
ClusterName=rehearsal
SlurmctldHost=laptop(10.77.0.1)
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$short/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
KillWait=2
StateSaveLocation=$root/slurmctld
SlurmctldPidFile=$root/slurmctld.pid
SlurmctldLogFile=$root/slurmctld.log
SlurmdSpoolDir=$short/%n
SlurmdPidFile=$root/%n/slurmd.pid
SlurmdLogFile=$root/slurmd-%n.log
NodeName=host1 NodeAddr=10.77.0.11 CPUs=8 RealMemory=32768
NodeName=host2 NodeAddr=10.77.0.12 CPUs=8 RealMemory=32768
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONFIG
echo CgroupPlugin=disabled >"$root/cgroup.conf"
mkdir "$root/slurmctld"
for n in 1 2; do
  mkdir "$short/host$n"
  ssh "root@10.77.0.1$n" "echo '$names' >>/etc/hosts; : >/etc/resolv.conf; slurmd -f '$SLURM_CONF'"
done
slurmctld -f "$SLURM_CONF"
until [ "$(sinfo --noheader --states=idle --format=%D)" = 2 ]; do sleep 0.2; done
lap "two nodes are idle"

submit() { sbatch --parsable --gpus-per-node=0 --output="$root/job%j.log" "$script" "$recipe" --out "$out"; }
state() { scontrol show job "$1" | sed -nE 's/.*JobState=(\S+).*/\1/p'; }
until_shards() { # JOB COUNT
  until [ "$(shards)" -ge "$2" ]; do
    [[ "$(state "$1")" =~ PENDING|RUNNING|COMPLETING ]] || { echo "job $1 is $(state "$1")"; exit 1; }
    sleep 0.2
  done
}
job=$(submit)
until_shards "$job" 2
hold
scancel "$job"
lap "job $job is cancelled, with $(shards) shards"
job=$(submit)
until [[ "$(state "$job")" =~ COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL ]]; do sleep 0.5; done
lap "job $job is $(state "$job"), with $(shards) shards; it ran on $(scontrol show job "$job" | sed -nE 's/^ *NodeList=//p')"
[ "$(state "$job")" = COMPLETED ]
