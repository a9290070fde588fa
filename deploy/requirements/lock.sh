#!/bin/sh
# Resolves cpu.txt, gpu.txt and macos.txt from pyproject.toml. Called by `make lock`, which brings uv.
# Versions already in cpu.txt stay unless they no longer fit; `make lock UPGRADE=1` takes the newest.
# gpu.txt and macos.txt take every version from cpu.txt, but for what vllm itself pins otherwise.
set -eu
cd "$(dirname "$0")/../.."
here=deploy/requirements
draft=$(mktemp -d)
trap 'rm -rf "$draft"' EXIT
export MACOSX_DEPLOYMENT_TARGET=14.0 # PyTorch's wheels start there

lock() { # list, uv's platform, extra of pyproject.toml, machine in words, further flags
    list=$1 platform=$2 extra=$3 machine=$4
    shift 4
    cp "$here/cpu.txt" "$draft/pins.txt"
    "$UV" pip compile pyproject.toml "$here/extra.in" --extra "$extra" --extra dev --python-version 3.11 \
        --python-platform "$platform" --excludes "$here/never.txt" --no-annotate --no-header --quiet \
        --output-file "$draft/pins.txt" "$@" >/dev/null
    {
        echo "# Locked versions for $machine, Python 3.11 and 3.12, tests included."
        echo "# Written by \`make lock\` (with uv from PyPI): edit pyproject.toml, never this file."
        echo "# deploy/setup.sh installs it without dependency resolution."
        grep -v '^#' "$draft/pins.txt"
    } >"$draft/$list.txt"
    mv "$draft/$list.txt" "$here/$list.txt"
    echo "Wrote $here/$list.txt."
}

[ -f "$here/cpu.txt" ] || : >"$here/cpu.txt"
lock cpu linux cpu "Linux without an NVIDIA GPU (PyTorch is chosen by deploy/setup.sh)" \
    --excludes "$here/separate.txt" ${UPGRADE:+--upgrade}
lock gpu linux gpu "Linux with an NVIDIA GPU"
lock macos macos cpu "macOS (no vLLM)"
