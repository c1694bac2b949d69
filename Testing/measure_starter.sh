#!/bin/sh
# Measures the bundle that `training.starter` packed in WORK/starter, and packs it again with its figures in the card.
#
#     sh Testing/measure_starter.sh ../shared/data runs/starter
#
# About two hours of one core; the phantom and the real CT are measured side by side, with one thread each.
set -eu
data=$1 work=$2
export OMP_NUM_THREADS=1
mkdir -p "$work/measured"
rm -f "$work/measured"/*.json

measure() {  # SCRIPT WHAT ARGUMENTS...
    script=$1 name=$1.$2
    shift 2
    python "Testing/$script.py" --bundle "$work/starter" --out "$work/measured/$name.json" "$@" > "$work/measured/$name.log"
}

real() {
    torso="--ct $data/torso/ct.nii.gz --organs $data/torso/organs.nii.gz --labels totalseg_v1"
    measure measure_bundle torso $torso && measure measure_rule torso $torso
}

phantom() {
    measure measure_bundle phantom && measure measure_rule phantom && measure measure_text phantom &&
        measure measure_reconstruction torso_dicom --ct "$data/torso_dicom/series"  # the autoencoder never saw it
}

real &
beside=$!
phantom
wait $beside
python -m LesionDiffusionLib.training.starter bundle --data "$data" --work "$work"
