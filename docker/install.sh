#!/bin/sh
# The steps that the Docker images and the Apptainer image share:
#   install.sh packages          everything but PyTorch, by docker/packages.txt
#   install.sh torch BUILD       PyTorch for the CPU (cpu) or a CUDA version (cu132, cu126, ...)
#   install.sh wheel CLONE OUT   the wheel of a clone, into the folder OUT
#   install.sh wsipipe OUT       that wheel, and the list of all that is installed
# A file with hashes is installed with all of them checked. For a build of PyTorch that has none (docker/torch-BUILD.txt),
# pip checks what it downloads against the digests of PyTorch's index; docker/lock.py BUILD writes the file.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
torch_index=${TORCH_INDEX:-https://download.pytorch.org/whl}

install() {
    python -m pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore "$@"
}

case "$1" in
packages)
    install --require-hashes --no-deps --only-binary :all: --requirement "$here/packages.txt"
    ;;
torch)
    locked="$here/torch-$2.txt"
    if [ "$2" = cu132 ]; then # the build that the package index itself has
        install --require-hashes --no-deps --only-binary :all: --requirement "$locked"
    elif [ -e "$locked" ]; then
        install --require-hashes --no-deps --only-binary :all: --extra-index-url "$torch_index/$2" --requirement "$locked"
    else
        install --only-binary :all: --index-url "$torch_index/$2" --constraint "$here/constraints.txt" torch torchvision
    fi
    ;;
wheel)
    python -m pip wheel --no-cache-dir --disable-pip-version-check --no-index --no-build-isolation --no-deps --wheel-dir "$3" "$2"
    ;;
wsipipe)
    install --no-index --no-deps "$2"/wsipipe_momkd-*.whl
    python -m pip check --disable-pip-version-check
    python "$here/sbom.py" "$here/sbom.cdx.json"
    ;;
*)
    echo "install.sh: no such step: $1" >&2
    exit 2
    ;;
esac
