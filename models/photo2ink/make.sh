#!/usr/bin/env bash
# Makes the bundled model from nothing: training data, training, export, figures.
#
#   make.sh FOLDER
#
# FOLDER gets the training data and the run. Started again after a break, it goes on from the last checkpoint.
# The photographs are in Debian's packages; those of Debian 12 gave the model that is here:
#   apt-get install mate-backgrounds lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 plasma-workspace-wallpapers
set -euo pipefail
cd "$(dirname "$0")/.."
work=$1
python=${PYTHON:-python3}

# What of these packages is no photograph, or hardly anything but one colour.
not_photographs=(
  '*/abstract/*' '*/desktop/*' '*/nature/Wood.jpg' '*screenshot*'
  '*/analogpattern_*' '*/umang_*' '*/free_*' '*/Fossa_*' '*/Infinite-Sea_*' '*/Painting-Colors_*'
  '*/wallpapers/'{Altai,Autumn,Canopee,Cascade,Cluster,Elarun,Flow,FlyingKonqui,Grey,Honeywave,IceCold,Kay}'/*'
  '*/wallpapers/'{Kokkini,MilkyWay,Opal,PastelHills,Patak,SafeLanding,Shell,Volna}'/*'
)
[ -e "$work/data/manifest.csv" ] || "$python" data.py "$work/data" \
  --debian mate-backgrounds lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 plasma-workspace-wallpapers \
  --leave-out "${not_photographs[@]}" --skimage --hold-out '*/skimage/*' --held-out 0.15 --quarters --look ink

# In phases. First the cycle losses weigh as published, and fall to 6 of 10, so that drawings follow photographs. Then
# they weigh 3, for ink on paper can't hold the colours of a photograph, and a generator that must bring them back hides
# them in it as tints; and the rate falls, for drawings change much from step to step at the full one, and falls once
# more in a run made longer. The discriminators see noise, or they would know a drawing by the one exact white of its
# paper.
# Threads that wait for each other spin for a moment only, so that another process on the same cores costs little.
train() {
  GOMP_SPINCOUNT=30000 "$python" train.py "$work/run" --a "$work/data/a" --b "$work/data/b" --resume --decay-from 2000 \
    --ngf 16 --blocks 6 --resize --ndf 32 --load-size 320 --jitter 1.25 --noise 0.1 --amp --threads 2 "$@"
}
# All phases go on from one checkpoint; this file tells the first from the others.
[ -e "$work/run/first-phase-done" ] || train --cycle 10 --cycle-end 6 --steps 2000
touch "$work/run/first-phase-done"
train --cycle 3 --steps 6000
train --cycle 3 --steps 8500
"$python" export.py "$work/run/generator_ab.pth" --half -o "$work/model.pt"
"$python" evaluate.py "$work/data" "$work/run" "$work/model.pt" --out "$work/figures.json"
