#!/bin/sh
# Sets up an Arm64 Python with TVM's runtime beside this machine's own, to run Arm networks under qemu-user.
#
# usage: tests/arm/setup_arm64.sh [DIR]      (default: build/arm64)
#
# Debian or Ubuntu; root only where qemu-user-static, cmake or the cross compilers are still missing. Nothing outside DIR is
# changed otherwise. Makes DIR/root (Debian's arm64 Python 3.11, unpacked), DIR/site (aarch64 wheels, unpacked), and
# DIR/python, which runs a Python file as an Arm64 program.
set -eu
dir=${1:-$(dirname "$0")/../../build/arm64}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
python=${PYTHON:-python3}

packages=""
command -v qemu-aarch64-static >/dev/null || packages="$packages qemu-user-static"
command -v aarch64-linux-gnu-gcc >/dev/null || packages="$packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
command -v aarch64-linux-gnu-g++ >/dev/null || packages="$packages g++-aarch64-linux-gnu"
command -v cmake >/dev/null || packages="$packages cmake make"
if [ -n "$packages" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "missing:$packages: apt-get install$packages" >&2
        exit 1
    fi
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of names, meant to split
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages
fi

# apt with state and cache of its own: it believes in an empty arm64 machine and so fetches everything needed.
if [ ! -x "$dir/root/usr/bin/python3.11" ]; then
    apt="$dir/apt"
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$dir/root"
    : >"$apt/status"
    arm_apt() {
        apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$apt/state" \
            -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" -o Debug::NoLocking=1 \
            -o APT::Install-Recommends=0 -o APT::Sandbox::User="$(id -un)" "$@"
    }
    arm_apt update
    arm_apt install -y --download-only python3.11 libstdc++6 zlib1g libgomp1 >/dev/null
    for package in "$apt"/cache/archives/*.deb; do
        dpkg -x "$package" "$dir/root"
    done
    rm -rf "$apt"
fi

# The same versions as the compiler's: what it writes and what the board reads must agree.
if [ ! -e "$dir/site/.complete" ]; then
    mkdir -p "$dir/wheels" "$dir/site"
    wheels=$("$python" - <<'PYTHON'
from importlib.metadata import version
print(*(f"{name}=={version(name)}" for name in ("apache-tvm", "apache-tvm-ffi", "numpy", "typing-extensions")))
PYTHON
)
    # shellcheck disable=SC2086
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
        --platform manylinux_2_17_aarch64 --platform manylinux_2_24_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux_2_28_aarch64 --dest "$dir/wheels" $wheels
    for wheel in "$dir"/wheels/*.whl; do
        "$python" -m zipfile -e "$wheel" "$dir/site"
    done
    rm -f "$dir/site/tvm/lib/libtvm_compiler.so" # 240 MB that only the compiler needs
    touch "$dir/site/.complete"
fi

cat >"$dir/python" <<SCRIPT
#!/bin/sh
# Runs Arm64 Python; QEMU_CPU chooses the core (cortex-a53 has no dot product).
export QEMU_LD_PREFIX="$dir/root" PYTHONHOME="$dir/root/usr" PYTHONPATH="$dir/site\${ARM_PYTHONPATH:+:\$ARM_PYTHONPATH}"
exec qemu-aarch64-static "$dir/root/usr/bin/python3.11" "\$@"
SCRIPT
chmod +x "$dir/python"
"$dir/python" -c 'import platform, numpy, tvm_ffi; print(f"ready: Python {platform.python_version()} on {platform.machine()}")'
