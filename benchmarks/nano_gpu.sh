#!/usr/bin/env bash
# atlas-nano on a machine with a GPU and no network, in slices of ten minutes.
#
#   benchmarks/nano_gpu.sh prepare DIR                      inputs: code, Minipedia, wheels; at most 64 MiB
#   benchmarks/nano_gpu.sh slice DIR RUN [OVERRIDE ...]     train for SECONDS (570), or go on, on DEVICE (cuda)
#   benchmarks/nano_gpu.sh collect DIR RUN OUT              the reader in fp16, its card's figures, the curves
#
# `slice` ends with 0 when the run is finished and with 75 when another slice is to follow; it saves a
# checkpoint first. RECIPE is the recipe's file (DIR/recipes/atlas_nano_gpu.toml), PYTHON the interpreter.
# On a CPU, to see that all is there: DEVICE=cpu SECONDS_A_SLICE=120 and a recipe of few steps.
set -euo pipefail
verb=${1:?prepare, slice or collect}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}

prepare() {
  local dir=$1
  mkdir -p "$dir/data" "$dir/wheels" "$dir/benchmarks"
  PYTHONPATH=$root/src $python -c '
import shutil, sys
from pathlib import Path
from atlas_lm.data.minipedia import prepare_minipedia
from atlas_lm.runtime.settings import cache_dir
made, out = cache_dir() / "minipedia", Path(sys.argv[1])
prepare_minipedia(made)
for source, name in (("passages", "passages"), ("answerable/dev", "train"), ("supported/validation", "validation")):
    shutil.copyfile(made / f"{source}.jsonl", out / f"{name}.jsonl")' "$dir/data"
  cp -r "$root/src" "$root/recipes" "$dir/"
  cp "$root/benchmarks/nano_gpu.sh" "$root/benchmarks/nano_asset.py" "$dir/benchmarks/"
  find "$dir/src" -name __pycache__ -prune -exec rm -rf {} +
  # What a machine with torch, transformers and tokenizers may lack.
  $python -m pip download --quiet --no-deps --only-binary :all: --dest "$dir/wheels" \
    --python-version "${TARGET_PYTHON:-3.12}" --platform manylinux_2_17_x86_64 --platform any \
    orjson cattrs attrs tomli-w jaxtyping wadler-lindig rouge-score absl-py six nltk joblib
  local size
  size=$(du -sm "$dir" | cut -f1)
  echo "$dir: $size MiB of inputs"
  [ "$size" -le 64 ] || { echo "more than 64 MiB" >&2; exit 2; }
}

slice() {
  local dir=$1 run=$2 status=0
  shift 2
  if [ ! -d "$dir/site" ]; then
    mkdir -p "$dir/site"
    local pair # a wheel and what it is imported as: those that the machine has are left alone
    for pair in orjson:orjson cattrs:cattrs attrs:attrs tomli_w:tomli_w jaxtyping:jaxtyping \
      wadler_lindig:wadler_lindig rouge_score:rouge_score absl_py:absl six:six nltk:nltk joblib:joblib; do
      $python -c "import ${pair#*:}" 2>/dev/null \
        || $python -m zipfile -e "$dir"/wheels/"${pair%:*}"-*.whl "$dir/site"
    done
  fi
  local resume=()
  [ -f "$run/recipe.toml" ] && resume=(--resume)
  PYTHONPATH=$dir/src:$dir/site ATLAS_LM_CACHE=$dir/cache \
    timeout --signal=TERM --kill-after=25 "${SECONDS_A_SLICE:-570}" \
    $python -m atlas_lm train "${RECIPE:-$dir/recipes/atlas_nano_gpu.toml}" --out "$run" \
    --device "${DEVICE:-cuda}" "${resume[@]}" "passages=['$dir/data/passages.jsonl']" \
    "train='$dir/data/train.jsonl'" "validation='$dir/data/validation.jsonl'" "$@" || status=$?
  [ "$status" -eq 0 ] || [ "$status" -eq 124 ] || exit "$status"
  [ -f "$run/finished.json" ] || exit 75
}

collect() {
  local dir=$1 run=$2 out=$3
  PYTHONPATH=$dir/src:$dir/site $python "$dir/benchmarks/nano_asset.py" "$run" "$out/model" "$out"
}

shift
"$verb" "$@"
