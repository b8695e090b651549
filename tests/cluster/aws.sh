#!/usr/bin/env bash
# What a person types for AWS, in an imitation of it whose instances are hosts of this machine: aws.sh CONFIG RECIPE OUT.
# A spot instance comes on demand, is reclaimed in the middle, is replaced; idle ones go; `ray down` ends the rest.
set -euo pipefail
config=$1 recipe=$2 out=$3
lap() { echo "== $SECONDS s: $*"; }
instances() { grep -c ' running$' "$root/instances.txt" || true; }

# Ray keeps what it made of CONFIG under a name made from CONFIG: with the key of an earlier account, where it finds that.
export TMPDIR=$root/laptop/tmp
mkdir -p "$TMPDIR"
moto_server -H "$hub" -p 5601 >"$root/moto.log" 2>&1 &
until (exec 3<>"/dev/tcp/$hub/5601") 2>/dev/null; do sleep 0.2; done
python "$(dirname "$0")/aws_account.py" prepare
touch "$root/instances.txt"
python "$(dirname "$0")/aws_account.py" watch "$root/instances.txt" &
while sleep 0.5; do # every instance that the imitation calls running gets a host, every ended one loses it
  while read -r id address state; do
    if [ "$state" = running ] && [ ! -e "$root/$id" ]; then
      ssh-keygen -y -f "$HOME/.ssh/ray-autoscaler_us-west-2.pem" >"$root/aws.pub"
      host "$id" "$address" "$root/aws.pub"
    elif [ "$state" = terminated ] && [ -e "$root/$id/pid" ]; then
      kill -9 "$(cat "$root/$id/pid")" || true
      rm "$root/$id/pid"
    fi
  done <"$root/instances.txt"
done 2>"$root/cloud.log" &

for attempt in 1 2 3 4 5; do # on a machine that is too busy, Ray isn't up within its own 30 s
  ray up -y --no-config-cache "$config" >"$root/up.log" 2>&1 && break
  [ $attempt != 5 ]
done
lap "the head stands, $(instances) instance"
ray dashboard -p 8265 "$config" >"$root/tunnel.log" 2>&1 &
until (exec 3<>/dev/tcp/127.0.0.1/8265) 2>/dev/null; do sleep 0.5; done
syncclip submit synth "$recipe" --out "$out" --shared --address http://127.0.0.1:8265 >"$root/job.log" 2>&1 &
job=$!
until [ "$(instances)" -ge 2 ] || ! kill -0 $job 2>/dev/null; do sleep 0.5; done
lap "a spot instance came on demand"
until [ "$(find "$out" -name '*_stats.json' 2>/dev/null | wc -l)" -ge 2 ] || ! kill -0 $job 2>/dev/null; do sleep 0.2; done
hold
python "$(dirname "$0")/aws_account.py" reclaim
lap "it is reclaimed, with $(find "$out" -name '*_stats.json' | wc -l) shards there"
status=0
wait $job || status=$?
lap "the job ended with $status, on $(($(wc -l <"$root/instances.txt") - 1)) workers in turn"
for _ in $(seq 180); do
  [ "$(instances)" = 1 ] && break
  sleep 1
done
lap "idle: $(instances) instance is left"
ray down -y "$config" >"$root/down.log" 2>&1
for _ in $(seq 60); do
  [ "$(instances)" = 0 ] && break
  sleep 1
done
lap "ray down: $(instances) instances are left"
exit $status
