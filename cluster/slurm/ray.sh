#!/usr/bin/env bash
# Start Ray on the nodes of this allocation, run a command on the first of them, and stop Ray: ray.sh COMMAND...
# `ray symmetric-run` is the same on every node: the one that has the address becomes the head.
set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname --all-ip-addresses | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000))

# Nodes are shared: whoever knows the port could run code as you. The token is made for this job and ends with it.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_ADDRESS="$address:$port"
# Nodes of a large allocation may take longer to start than Ray's default of 30 s.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600 RAY_USAGE_STATS_ENABLED=0

# Options go to `ray start` on every node; workers refuse some of the head's (`--include-dashboard`).
# Ray's command exits with 0 even if Ray didn't start, so the status of ours is what counts. The head is on this node.
ended=$(mktemp -d)
trap 'rm -rf "$ended"' EXIT
# Before the time is over, Slurm signals this script alone (--signal=B:TERM), and Ray must outlive the command: it alone
# is told, and finishes what is in flight. The shell runs a trap only while it waits for a command in the background.
# The command may not have started yet: whichever of the two comes second takes the notice away and tells it.
tell='rm "$1/notice" 2>/dev/null && kill -TERM "$(cat "$1/command")"'
trap 'asked=143; touch "$ended/notice"; [ ! -e "$ended/command" ] || bash -c "$tell" _ "$ended" || true' TERM
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
  env PATH="$SLURM_SUBMIT_DIR/cluster/slurm/again:$PATH" \
  ray symmetric-run --address "$RAY_ADDRESS" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --object-store-memory=1000000000 -- \
  bash -c '"${@:2}" & echo $! >"$1/pid"; mv "$1/pid" "$1/command"; '"$tell"'; wait $! && touch "$1/well"' _ "$ended" "$@" &
until wait $! && status=0 || status=$?; ! kill -0 $! 2>/dev/null; do :; done
[ "${asked:-$status}" = 0 ] || exit "${asked:-$status}"
[ -e "$ended/well" ] || { echo "syncclip: Ray did not start on all nodes; what it said stands above" >&2; exit 1; }
