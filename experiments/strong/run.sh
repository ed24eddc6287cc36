#!/usr/bin/env bash
# experiments/strong/run.sh ESC50_FOLDER OUT [WIDTH] [SEED ...]
# Trains Cnn14_16k on ESC-50 at 16 kHz, folds 1-4, until its score hardly rises, and scores it on fold 5: WIDTH of the
# layers (0.25), one network for each SEED (0 1 2).
# Every step resumes: run the same command again after a stop. TEACHER_SCORES, a scores.npz of `epanns evaluate` on folds
# 1-4 by any network with the classes of ESC-50, is taught beside the labels, half each.
# About 40 minutes on one core for each network of width 0.25, where the processor multiplies bfloat16.
set -euo pipefail
data=$1 out=$2 width=${3:-0.25}
seeds=("${@:4}")
[ ${#seeds[@]} -gt 0 ] || seeds=(0 1 2)
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"

[ -e "$out/manifest.csv" ] || epanns data esc50 "$data" --out "$out/manifest.csv"
train=()
for fold in 1 2 3 4 5; do
    epanns pack "$out/manifest.csv" --split "fold$fold" --sample-rate 16000 --seconds 5 --out "$out/packs/fold$fold"
    [ "$fold" = 5 ] || train+=(--train "$out/packs/fold$fold")
done

teacher=()
[ -z "${TEACHER_SCORES:-}" ] || teacher=(--teacher "$TEACHER_SCORES" --distil-weight 0.5)
for seed in "${seeds[@]}"; do
    network=cnn14_w$width-s$seed
    epanns train Cnn14_16k --width "$width" --config "$here/training.toml" --seed "$seed" "${teacher[@]}" \
        "${train[@]}" --val "$out/packs/fold5" --out "$out/$network"
    [ -e "$out/scored/$network" ] || epanns evaluate "$out/$network" --data "$out/packs/fold5" --out "$out/scored/$network"
done
