#!/usr/bin/env bash
# Generate or complete a synthetic dataset on the nodes of one allocation.
#
#   sbatch cluster/slurm/synth.sh birds.yaml [SECTION.KEY=VALUE]...
#   sbatch --array=1-4%1 cluster/slurm/synth.sh birds.yaml      four consecutive allocations; each resumes the previous one
#
# Submit from the project's folder, with the same `syncclip` on the PATH of all nodes. The recipe's storage.root must be a
# shared folder or a bucket. On nodes without GPUs, add --gpus-per-node=0.
#SBATCH --job-name=syncclip-synth
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive                   # the script stops all Ray processes of this account on a node
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --requeue                     # after a preemption or a broken node, to resume
#SBATCH --signal=B:TERM@60             # a minute before the time limit, to finish in-flight work
#SBATCH --open-mode=append
#SBATCH --output=syncclip-synth-%j.log
set -euo pipefail
exec bash "$SLURM_SUBMIT_DIR/cluster/slurm/ray.sh" syncclip synth "$@"
