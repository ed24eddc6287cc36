#!/usr/bin/env bash
# experiments/strong/run.sh ESC50_FOLDER YAMNET OUT [WIDTH] [SEED ...]
# Trains strong Cnn14_16k networks on ESC-50 at 16 kHz, folds 1-4, with labels and a teacher, and scores them on fold 5:
# WIDTH of the layers (0.25), one network for each SEED (0 1 2). YAMNET is yamnet.h5 or the folded .npz.
# Every step resumes: run the same command again after a stop. TEACHER, a checkpoint of any network that reads 16 kHz and
# has the classes of ESC-50, replaces YAMNet; TEACHER_SCORES, a scores.npz of `epanns evaluate`, replaces both.
# On 2 idle cores: about 10 minutes for the teacher and half an hour for each network of width 0.25.
set -euo pipefail
data=$1 yamnet=$2 out=$3 width=${4:-0.25}
seeds=("${@:5}")
[ ${#seeds[@]} -gt 0 ] || seeds=(0 1 2)
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"

[ -e "$out/manifest.csv" ] || epanns data esc50 "$data" --out "$out/manifest.csv"
for fold in 1 2 3 4 5; do
    epanns pack "$out/manifest.csv" --split "fold$fold" --sample-rate 16000 --seconds 5 --out "$out/packs/fold$fold"
done
train=() scored=()
for fold in 1 2 3 4; do
    train+=(--train "$out/packs/fold$fold") scored+=(--data "$out/packs/fold$fold")
done

scores=${TEACHER_SCORES:-$out/teacher_scores/scores.npz}
if [ ! -e "$scores" ]; then
    teacher=${TEACHER:-$out/teacher}
    if [ -z "${TEACHER:-}" ]; then
        [ -e "$out/yamnet" ] || epanns import "$yamnet" --out "$out/yamnet"
        epanns finetune "$out/yamnet" --config "$here/teacher.toml" "${train[@]}" --val "$out/packs/fold5" --out "$teacher"
        [ -e "$out/scored/teacher" ] || epanns evaluate "$teacher" --data "$out/packs/fold5" --out "$out/scored/teacher"
    fi
    epanns evaluate "$teacher" "${scored[@]}" --bootstrap 0 --out "$out/teacher_scores"
fi

for seed in "${seeds[@]}"; do
    network=cnn14_w$width-s$seed
    epanns train Cnn14_16k --width "$width" --config "$here/student.toml" --seed "$seed" --teacher "$scores" \
        "${train[@]}" --val "$out/packs/fold5" --out "$out/$network"
    [ -e "$out/scored/$network" ] || epanns evaluate "$out/$network" --data "$out/packs/fold5" --out "$out/scored/$network"
done
