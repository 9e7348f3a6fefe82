#!/usr/bin/env bash
# Makes the bundled model from nothing: training data, training, export, evaluation. `make photo2ink` runs it.
#
#   make.sh FOLDER
#
# FOLDER gets the training data and the run. Started again after a break, it continues from the last checkpoint. The
# environment variable PYTHON names an interpreter that has tools/ installed. The photographs are in Debian's packages;
# the bundled model was trained on those of Debian 12:
#   apt-get install mate-backgrounds lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 plasma-workspace-wallpapers
set -euo pipefail
work=$1
tools() { "${PYTHON:-python3}" -m torchherd_tools "$@"; }

# Files of these packages that are not photographs, or have hardly more than one colour.
not_photographs=(
  '*/abstract/*' '*/desktop/*' '*/nature/Wood.jpg' '*screenshot*'
  '*/analogpattern_*' '*/umang_*' '*/free_*' '*/Fossa_*' '*/Infinite-Sea_*' '*/Painting-Colors_*'
  '*/wallpapers/'{Altai,Autumn,Canopee,Cascade,Cluster,Elarun,Flow,FlyingKonqui,Grey,Honeywave,IceCold,Kay}'/*'
  '*/wallpapers/'{Kokkini,MilkyWay,Opal,PastelHills,Patak,SafeLanding,Shell,Volna}'/*'
)
[ -e "$work/data/manifest.csv" ] || tools data "$work/data" \
  --debian mate-backgrounds lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 plasma-workspace-wallpapers \
  --leave-out "${not_photographs[@]}" --skimage --hold-out '*/skimage/*' --held-out 0.15 --quarters --look ink

# Training has phases. In the first, the weight of the cycle losses falls from the published 10 to 6, so that drawings
# follow photographs. Then it is 3: ink on paper can't store the colours of a photograph, and a generator that must
# restore them hides them in the drawing as tints. The rate falls in each phase, since at the full rate drawings change
# much from step to step. Without noise, the discriminators would recognize drawings by the exact white of the paper.
# A short spin time of waiting threads leaves the cores to other processes.
train() {
  GOMP_SPINCOUNT=30000 tools train "$work/run" --a "$work/data/a" --b "$work/data/b" --resume --decay-from 2000 \
    --ngf 16 --blocks 6 --resize --ndf 32 --load-size 320 --jitter 1.25 --noise 0.1 --amp --threads 2 "$@"
}
# All phases use one checkpoint; this file marks the end of the first phase.
[ -e "$work/run/first-phase-done" ] || train --cycle 10 --cycle-end 6 --steps 2000
touch "$work/run/first-phase-done"
train --cycle 3 --steps 6000
train --cycle 3 --steps 8500
tools export "$work/run/generator_ab.pth" --half -o "$work/model.pt"
tools evaluate "$work/data" "$work/run" "$work/model.pt" --out "$work/figures.json"
