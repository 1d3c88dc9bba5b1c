#!/usr/bin/env bash
# Says which programs the build, the tests and the demo lack; as root on Debian or Ubuntu, installs them.
# Nothing that is installed here is started, now or at the next boot. Usage: debian.sh [--list|--mesh]
# --mesh: only what `make bench-mesh` needs besides.
set -euo pipefail
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# package  a command or file that shows that it is there  services that the package would start
PROGRAMS='
gcc                   cc
libc6-dev             /usr/lib*/libc.a:/usr/lib/*/libc.a
iproute2              ip
strace                strace
curl                  curl
nginx                 nginx                              nginx
libnginx-mod-stream   /usr/lib/nginx/modules/ngx_stream_module.so
iptables              iptables-save
nftables              nft                                nftables
redis-server          redis-server                       redis-server
redis-tools           redis-benchmark
memcached             memcached                          memcached
postgresql            /usr/lib/postgresql/*/bin/postgres postgresql
haproxy               haproxy                            haproxy
golang-go             go:/usr/local/go/bin/go
etcd-server           etcd                               etcd
etcd-client           etcdctl
caddy                 caddy                              caddy
hey                   hey
openssh-server        sshd                               ssh
openssh-client        ssh
socat                 socat
iperf3                iperf3
openssl               openssl
wrk                   wrk
nodejs                node
default-jdk-headless  javac
bind9-dnsutils        dig
bind9-host            host
bsdutils              logger
busybox               busybox
chrony                chronyd                            chrony
dnsmasq-base          dnsmasq
musl-tools            musl-gcc
netcat-openbsd        nc.openbsd
ntpsec-ntpdig         ntpdig
rsyslog               rsyslogd                           rsyslog
sip-tester            sipp
snmp                  snmpget
snmpd                 snmpd                              snmpd
systemd               /lib/systemd/systemd
tftp-hpa              tftp
tftpd-hpa             in.tftpd                           tftpd-hpa
'
MESH='
g++                     c++
pkg-config              pkg-config
libgrpc++-dev           /usr/include/grpcpp/grpcpp.h
libprotobuf-dev         /usr/include/google/protobuf/message.h
protobuf-compiler       protoc
protobuf-compiler-grpc  grpc_cpp_plugin
libmemcached-dev        /usr/include/libmemcached/memcached.h
'
WHAT='the build, the tests or the demo'
if [ "${1:-}" = --mesh ]; then
    PROGRAMS=$MESH WHAT='make bench-mesh'
fi
readonly POLICY=/usr/sbin/policy-rc.d

present() { # one of the commands or globs of a:b:c
    local one
    for one in ${1//:/ }; do
        case $one in
        /*) compgen -G "$one" >/dev/null && return 0 ;;
        *) command -v "$one" >/dev/null && return 0 ;;
        esac
    done
    return 1
}

missing=() services=()
while read -r package sign service; do
    [ -n "$package" ] || continue
    if ! present "$sign"; then
        missing+=("$package")
        [ -z "$service" ] || services+=("$service")
    fi
done <<<"$PROGRAMS"

# A Python of Debian's own comes without headers and without venv.
system_python() { [ "${AX_SETUP_PYTHON:-}" = "" ] || [[ $(readlink -f "$(command -v "$AX_SETUP_PYTHON")") == /usr/bin/* ]]; }
if [ "${1:-}" != --mesh ] && system_python; then
    for package in python3 python3-dev python3-venv; do
        state=$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true)
        [[ $state == ii* ]] || missing+=("$package")
    done
fi

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "${1:-}" = --list ] || [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "setup: missing for ${WHAT} (Debian's package names):"
    printf '    %s\n' "${missing[@]}"
    echo "setup: as root: apt-get install --no-install-recommends ${missing[*]}"
    exit 0
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM HUP

# A policy that forbids every start while packages are configured. The machine's own, if it has one, stays as it is.
if [ ! -e "$POLICY" ] || grep -qs 'appswitch setup' "$POLICY"; then
    trap 'rm -f "$log" "$POLICY"' EXIT
    printf '#!/bin/sh\n# appswitch setup: temporary\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
fi

export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
echo "setup: installing ${missing[*]}"
"${apt[@]}" update </dev/null || echo "setup: apt-get update had errors; going on with what is known" >&2

available=() unknown=()
for package in "${missing[@]}"; do
    policy=$(apt-cache policy "$package")
    if [[ $policy =~ Candidate:\ [^\(] ]]; then available+=("$package"); else unknown+=("$package"); fi
done
if [ ${#available[@]} -gt 0 ]; then
    if ! "${apt[@]}" install -y --no-install-recommends "${available[@]}" </dev/null >"$log" 2>&1; then
        cat "$log" >&2
        echo "setup: apt-get install failed (above); repair that and run \`make setup\` again" >&2
        exit 1
    fi
fi
if command -v systemctl >/dev/null; then
    for service in "${services[@]}"; do
        systemctl --quiet disable "$service" 2>/dev/null || true
    done
fi
if [ ${#unknown[@]} -gt 0 ]; then
    echo "setup: this release has no package ${unknown[*]}; the tests of those programs will fail until you install them" >&2
fi
