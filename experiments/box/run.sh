#!/usr/bin/env bash
# experiments/box/run.sh ESC50_FOLDER MN04 OUT
# Makes the network that is installed with epanns: EfficientAT's mn04 (MN04 is mn04_as_mAP_432.pt), pruned to half of its
# MACs without labels on the clips of ESC-50's folds 1-4, fine-tuned on the labels of folds 1-3 and validated on fold 4,
# stored as float16, and scored on fold 5.
# Every step resumes: run the same command again after a stop. On 2 idle cores: about half an hour.
# `python experiments/box/ship.py OUT` then writes the network with its card into the package, and results/box.
set -euo pipefail
data=$1 mn04=$2 out=$3
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"

[ -e "$out/manifest.csv" ] || epanns data esc50 "$data" --out "$out/manifest.csv"
splits=()
for fold in 1 2 3 4 5; do
    epanns pack "$out/manifest.csv" --split "fold$fold" --sample-rate 32000 --seconds 5 --out "$out/packs/fold$fold"
    [ "$fold" = 5 ] || splits+=(--split "fold$fold")
done
epanns pack "$out/manifest.csv" "${splits[@]}" --sample-rate 32000 --seconds 5 --out "$out/packs/folds1-4"

[ -e "$out/mn04" ] || epanns import "$mn04" --out "$out/mn04"
[ -e "$out/pruned" ] || epanns prune "$out/mn04" --method auto --target-macs 0.5 --calibration "$out/packs/folds1-4" \
    --out "$out/pruned"
epanns finetune "$out/pruned" --config "$here/finetune.toml" --train "$out/packs/fold1" --train "$out/packs/fold2" \
    --train "$out/packs/fold3" --val "$out/packs/fold4" --out "$out/finetuned"
[ -e "$out/stored" ] || epanns import "$out/finetuned" --storage float16 --out "$out/stored"
[ -e "$out/scored" ] || epanns evaluate "$out/stored" --data "$out/packs/fold5" --group-pattern '^[0-9]-([0-9]+)-' \
    --name esc50 --out "$out/scored"
