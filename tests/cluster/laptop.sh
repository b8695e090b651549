#!/usr/bin/env bash
# What a person types for machines of their own, and a host that is lost on the way: laptop.sh CONFIG RECIPE OUT
set -euo pipefail
config=$1 recipe=$2 out=$3
lap() { echo "== $SECONDS s: $*"; }

export RAY_UP_enable_autoscaler_v2=0
for attempt in 1 2 3 4 5; do # on a machine that is too busy, Ray isn't up within its own 30 s
  ray up -y --no-config-cache "$config" >"$HOSTS_ROOT/up.log" 2>&1 && break
  [ $attempt != 5 ]
done
lap "the head stands"
# Not by a pipe into `grep -q`, which closes it at the first hit: `ray exec` would fail at what it still has to say.
until [[ "$(ray exec "$config" 'ray status' 2>/dev/null)" =~ 2\ local.cluster.node ]]; do sleep 2; done
lap "both machines are there"
ray dashboard -p 8265 "$config" >"$HOSTS_ROOT/tunnel.log" 2>&1 &
until (exec 3<>/dev/tcp/127.0.0.1/8265) 2>/dev/null; do sleep 0.5; done
lap "the tunnel stands"
syncclip submit synth "$recipe" --out "$out" --shared --address http://127.0.0.1:8265 >"$HOSTS_ROOT/job.log" 2>&1 &
job=$!
until [ "$(find "$out" -name '*_stats.json' 2>/dev/null | wc -l)" -ge 2 ] || ! kill -0 $job; do sleep 0.2; done
hold
kill -9 "$(cat "$HOSTS_ROOT/host2/pid")"
lap "host2 is lost, with $(find "$out" -name '*_stats.json' | wc -l) shards there"
pkill -CONT -f '^ray::MapWorker'
status=0
wait $job || status=$?
lap "the job ended with $status"
ray down -y "$config" >"$HOSTS_ROOT/down.log" 2>&1
lap "ray down"
left=1
for _ in $(seq 60); do
  left=$(ssh -i "$HOSTS_ROOT/key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@10.77.0.11 \
    'pgrep -c "raylet|gcs_server"' || true)
  [ "$left" = 0 ] && break
  sleep 1
done
lap "$left processes of Ray are left"
exit $status
