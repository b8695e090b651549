#!/usr/bin/env bash
# Start Ray on the nodes of this allocation, run a command on the first node, and stop Ray: ray.sh COMMAND...
# `ray symmetric-run` runs on every node; the node with the given address becomes the head.
set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname --all-ip-addresses | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000))

# Other users of a node could run code under your account through the port, so require a token for this job.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_ADDRESS="$address:$port"
# Nodes of a large allocation may take longer to start than Ray's default of 30 s.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600 RAY_USAGE_STATS_ENABLED=0

# Options go to `ray start` on every node; workers reject some options of the head (`--include-dashboard`).
# Ray's command exits with 0 even if Ray didn't start, so this script returns the exit status of our command instead.
ended=$(mktemp -d)
trap 'rm -rf "$ended"' EXIT
# Before the time limit, Slurm signals this script (--signal=B:TERM), which forwards the signal only to the command,
# because Ray must outlive it. The shell runs a trap only while it waits for a background command. If the command has not
# started yet, its start removes the notice and sends the signal.
notify='rm "$1/notice" 2>/dev/null && kill -TERM "$(cat "$1/command")"'
trap 'signalled=143; touch "$ended/notice"; [ ! -e "$ended/command" ] || bash -c "$notify" _ "$ended" || true' TERM
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
  env PATH="$SLURM_SUBMIT_DIR/cluster/slurm/again:$PATH" \
  ray symmetric-run --address "$RAY_ADDRESS" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --object-store-memory=1000000000 -- \
  bash -c '"${@:2}" & echo $! >"$1/pid"; mv "$1/pid" "$1/command"; '"$notify"'; wait $! && touch "$1/well"' _ "$ended" "$@" &
until wait $! && status=0 || status=$?; ! kill -0 $! 2>/dev/null; do :; done
[ "${signalled:-$status}" = 0 ] || exit "${signalled:-$status}"
[ -e "$ended/well" ] || { echo "syncclip: Ray did not start on all nodes; see its output above" >&2; exit 1; }
