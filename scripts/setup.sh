# Sourced by the other scripts: goes to the project's folder and sees to what they need. Where the system is Debian's or
# Ubuntu's and this user may install, what is missing is installed; elsewhere one line says what to install.
#
#   need_build    a C compiler, and cargo of the version that Cargo.toml asks for
#   need_lint     cargo fmt and cargo clippy
#   need_cxx      g++ and python3, for the stand-in for the CUDA driver; returns 1 where they cannot be had
#   need_chromium Chromium, for looking at the report's page; returns 1 where it cannot be had
#   need_python   python3 that can make virtual environments; returns 1 where there is none

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

say() { printf '%s\n' "== $*" >&2; }
stop() { printf '%s\n' "error: $*" >&2; exit 1; }

# Installs Debian packages, if that is possible here.
apt_install() {
    command -v apt-get > /dev/null || return 1
    local as=""
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2> /dev/null || return 1
        as="sudo -n"
    fi
    say "installing $*"
    if [ -z "${apt_updated:-}" ]; then
        $as apt-get update -qq > /dev/null 2>&1
        apt_updated=1
    fi
    $as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" > /dev/null 2>&1
}

at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

# The version of the Debian package that would be installed, such as 1.92.0.
apt_candidate() { apt-cache policy "$1" 2> /dev/null | sed -n 's/^ *Candidate: \([0-9.]*\).*/\1/p'; }

cargo_version() { cargo --version 2> /dev/null | awk '{print $2}'; }

need_build() {
    if ! command -v cc > /dev/null; then
        apt_install gcc libc6-dev || true
        command -v cc > /dev/null || stop "no C compiler: install gcc or clang (Debian, Ubuntu: build-essential)"
    fi
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    [ -f "$HOME/.cargo/env" ] && ! command -v cargo > /dev/null && . "$HOME/.cargo/env"
    found=$(cargo_version)
    if [ -z "$found" ] && command -v apt-cache > /dev/null && at_least "$wanted" "$(apt_candidate cargo)"; then
        apt_install cargo || true
        found=$(cargo_version)
    fi
    [ -n "$found" ] || stop "no cargo: install Rust $wanted or newer with rustup"
    at_least "$wanted" "${found%%-*}" || stop "cargo $found is too old: install Rust $wanted or newer (rustup update stable)"
}

need_lint() {
    cargo fmt --version > /dev/null 2>&1 || apt_install rustfmt || stop "no cargo fmt: rustup component add rustfmt"
    cargo clippy --version > /dev/null 2>&1 || apt_install rust-clippy || stop "no cargo clippy: rustup component add clippy"
}

need_cxx() {
    command -v g++ > /dev/null || apt_install g++ || true
    command -v python3 > /dev/null || apt_install python3 || true
    command -v g++ > /dev/null && command -v python3 > /dev/null
}

need_chromium() {
    command -v chromium > /dev/null || command -v chromium-browser > /dev/null || command -v google-chrome > /dev/null \
        || apt_install chromium fonts-dejavu-core
}

need_python() {
    python3 -c 'import venv, ensurepip' 2> /dev/null && return
    apt_install python3-venv || true
    python3 -c 'import venv, ensurepip' 2> /dev/null
}
