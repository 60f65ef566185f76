# Which system packages are there, and how the missing ones are installed. Sourced by deploy/run and tests/run; bash.
# shellcheck shell=bash

# True when a Debian package, or what we use of it, is there: a user without dpkg may have the programs all the same.
package_present() {
    if command -v dpkg-query >/dev/null && [[ $(dpkg-query -W -f='${Status}' "$1" 2>/dev/null) == *'ok installed' ]]; then
        return 0
    fi
    case "$1" in
        build-essential) command -v cc >/dev/null ;;
        pkg-config) command -v pkg-config >/dev/null ;;
        ca-certificates) [[ -e /etc/ssl/certs/ca-certificates.crt || -d /etc/pki ]] ;;
        curl | git | python3 | shellcheck) command -v "$1" >/dev/null ;;
        python3-pip) python3 -m pip --version >/dev/null 2>&1 ;;
        python3-venv) python3 -m venv --help >/dev/null 2>&1 ;;
        util-linux) command -v setpriv >/dev/null && command -v setsid >/dev/null ;;
        postgresql) compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null ;;
        redis-server) command -v redis-server >/dev/null || command -v valkey-server >/dev/null ;;
        libfaketime) compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null ;;
        *) return 1 ;;
    esac
}

# Our farm runs private servers only: the packages' own must not start and take the usual ports.
packages_keep_services_down() {
    local cluster=/etc/postgresql-common/createcluster.conf
    mkdir -p "$(dirname "$cluster")"
    [[ -e $cluster ]] || echo 'create_main_cluster = false' >"$cluster"
    if [[ ! -e /usr/sbin/policy-rc.d ]]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
        PACKAGES_POLICY_IS_OURS=1
    fi
}

packages_let_services_be() {
    [[ -z ${PACKAGES_POLICY_IS_OURS:-} ]] || rm -f /usr/sbin/policy-rc.d
}

# packages_ensure install|refuse PACKAGE…: all of them are there, or this ends the script and says which are not.
packages_ensure() {
    local mode=$1 package
    local -a missing=()
    shift
    for package in "$@"; do
        package_present "$package" || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    if [[ $mode == refuse ]] || ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        printf 'missing packages: %s\n' "${missing[*]}" >&2
        printf 'install them as root, e.g. on Debian: apt-get install --no-install-recommends %s\n' "${missing[*]}" >&2
        exit 1
    fi
    printf 'installing %s\n' "${missing[*]}"
    packages_keep_services_down
    local status=0
    {
        apt-get -q update &&
            DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "${missing[@]}"
    } >/tmp/modelyard-packages.$$ 2>&1 || status=$?
    packages_let_services_be
    if ((status != 0)); then
        cat /tmp/modelyard-packages.$$ >&2
        rm -f /tmp/modelyard-packages.$$
        echo 'the packages could not be installed' >&2
        exit 1
    fi
    rm -f /tmp/modelyard-packages.$$
}
