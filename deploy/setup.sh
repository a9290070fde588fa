#!/bin/sh
# Creates .venv and installs nextquery into it, by machine: gpu, cpu or macos. Called by `make`.
# Does nothing when the last set-up still fits. `make MACHINE=cpu` overrules what it finds.
set -eu
cd "$(dirname "$0")/.."
venv=.venv
python=$venv/bin/python
stamp=$venv/nextquery-setup
torch=2.13.0
torch_cpu_index=https://download.pytorch.org/whl/cpu

main() {
    machine=${MACHINE:-$(detect_machine)}
    list=deploy/requirements/$machine.txt
    [ -f "$list" ] || fail "There is no list of packages for the machine '$machine'. Choose cpu, gpu or macos."
    place="$machine $(pwd -P)"
    inputs=$(cat pyproject.toml deploy/setup.sh "$list" | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$place $inputs" ] && works "$python"; then exit 0; fi

    create_environment
    echo "Installing the packages for this machine ($machine). The first time takes some minutes and gigabytes."
    [ "$machine" != cpu ] || install_torch_for_cpu
    install --no-deps -r "$list"
    install --no-deps --no-build-isolation -e .
    check_absent torchvision torchaudio torchcodec
    "$python" -c "import torch, transformers" || fail "The packages are there, but cannot be imported; see above."
    echo "$place $inputs" >"$stamp"
    echo "Ready. 'make run' starts the service, 'make test' tests it, '.venv/bin/nextquery doctor' looks for trouble."
}

detect_machine() {
    case "$(uname -s)" in
        Linux) if nvidia-smi -L >/dev/null 2>&1; then echo gpu; else echo cpu; fi ;;
        Darwin) echo macos ;;
        MINGW* | MSYS* | CYGWIN* | Windows*)
            fail "nextquery does not run on Windows itself. Install WSL (wsl --install), then run make inside it." ;;
        *) fail "nextquery knows Linux, macOS and WSL, not $(uname -s). Try 'make MACHINE=cpu'." ;;
    esac
}

create_environment() {
    if [ -f "$stamp" ]; then
        case "$(cat "$stamp")" in
            "$place "*) ;;
            *) echo "The environment was made for another machine or folder: making it anew." && rm -rf "$venv" ;;
        esac
    fi
    if works "$python"; then return 0; fi
    base=$(find_python)
    echo "Creating $venv with $("$base" --version)."
    rm -rf "$venv"
    "$base" -m venv "$venv" ||
        fail "Python could not create $venv. On Debian and Ubuntu the package python3-venv is missing: install it."
}

find_python() {
    for candidate in ${PYTHON:-python3.11 python3.12 python3 python}; do
        if works "$candidate"; then
            echo "$candidate"
            return 0
        fi
    done
    fail "nextquery needs Python 3.11 or 3.12 and found neither. Install one, or name it: make PYTHON=/path/to/python3.11"
}

works() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' >/dev/null 2>&1
}

install_torch_for_cpu() { # the CPU build where there is one: the plain one for Linux asks for gigabytes of CUDA
    case "$("$python" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null)" in
        "$torch" | "$torch"+cpu) return 0 ;;
    esac
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    install --no-deps "torch==$torch+cpu" 2>>"$log" ||
        install --no-deps --retries 1 --index-url "$torch_cpu_index" "torch==$torch+cpu" 2>>"$log" ||
        install "torch==$torch" 2>>"$log" ||
        { cat "$log" >&2 && fail "PyTorch $torch could not be installed; pip's words stand above."; }
}

install() { # two -q: pip's errors are shown, its warnings are not
    "$python" -m pip install -qq --no-input --disable-pip-version-check "$@"
}

check_absent() {
    for package in "$@"; do
        if "$python" -m pip show -qq "$package" 2>/dev/null; then
            echo "Removing $package: it breaks the import of transformers and is never needed here."
            "$python" -m pip uninstall -qq --yes "$package"
        fi
    done
}

fail() {
    echo "Set-up stopped: $*" >&2
    exit 1
}

main
