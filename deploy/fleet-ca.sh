#!/usr/bin/env bash
# Certificates for a fleet: one CA, a certificate for the broker, one for every device (its name is the device id).
#   fleet-ca.sh [--dry-run] [--days N] FOLDER ca
#   fleet-ca.sh [--dry-run] [--days N] FOLDER server NAME [NAME|IP ...]   # names by which devices call the broker
#   fleet-ca.sh [--dry-run] [--days N] FOLDER device DEVICE-ID            # again for the same id: a renewed one
#   fleet-ca.sh [--dry-run]            FOLDER revoke DEVICE-ID            # for the broker: crlfile FOLDER/ca.crl
# FOLDER belongs on a computer that is no device and no broker; whoever reads FOLDER/ca.key can make devices.
set -eu
umask 077

say() { printf '%s\n' "$*" >&2; }
fail() { say "fleet-ca.sh: $2"; exit "$1"; }
run() { if [ "$dry" = 1 ]; then say "would run: $*"; else "$@"; fi; }
# put FILE: standard input into FILE, whole or not at all
put() {
    if [ "$dry" = 1 ]; then say "would write: $1"; cat >/dev/null; return; fi
    cat >"$1.part"
    mv "$1.part" "$1"
}
need_ca() {
    [ "$dry" = 1 ] || [ -f "$folder/ca.key" ] || fail 66 "$folder/ca.key: not found; run: fleet-ca.sh $folder ca"
    settings
}

# Written at every call: the folder may have been moved.
settings() {
    put "$folder/ca.cnf" <<EOF
[ca]
default_ca = fleet
[fleet]
database = $folder/index.txt
new_certs_dir = $folder/issued
rand_serial = yes
certificate = $folder/ca.crt
private_key = $folder/ca.key
default_md = sha256
default_crl_days = 3650
unique_subject = no
policy = names
[names]
commonName = supplied
[req]
distinguished_name = empty
x509_extensions = authority
[empty]
[authority]
basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
EOF
}

make_ca() {
    [ ! -e "$folder/ca.key" ] || fail 64 "$folder/ca.key: is there already; a new CA belongs in a new folder"
    run mkdir -p "$folder/issued"
    put "$folder/index.txt" </dev/null
    settings
    run openssl req -config "$folder/ca.cnf" -x509 -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days "${days:-3650}" \
        -subj "/CN=EdgeFER fleet CA" -keyout "$folder/ca.key" -out "$folder/ca.crt"
    run openssl ca -config "$folder/ca.cnf" -gencrl -out "$folder/ca.crl"
}

# issue NAME USAGE ALTERNATIVE-NAMES: NAME.key and NAME.crt; the key is made anew every time
issue() {
    need_ca
    put "$folder/$1.ext" <<EOF
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = $2
subjectAltName = $3
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
EOF
    run openssl req -config "$folder/ca.cnf" -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -subj "/CN=$1" \
        -keyout "$folder/$1.key.new" -out "$folder/$1.csr"
    run openssl ca -batch -notext -config "$folder/ca.cnf" -extfile "$folder/$1.ext" -days "${days:-365}" \
        -in "$folder/$1.csr" -out "$folder/$1.crt.new"
    run mv "$folder/$1.key.new" "$folder/$1.key"
    run mv "$folder/$1.crt.new" "$folder/$1.crt"
    run rm "$folder/$1.csr" "$folder/$1.ext"
}

server() {
    names=""
    for name in "$@"; do
        case $name in
            *[!0-9.:a-fA-F]*) kind=DNS ;;
            *.*.*.* | *:*) kind=IP ;;
            *) kind=DNS ;;
        esac
        names="$names${names:+,}$kind:$name"
    done
    issue "$1" serverAuth "$names"
    say "broker: certfile $folder/$1.crt, keyfile $folder/$1.key, cafile $folder/ca.crt, crlfile $folder/ca.crl"
}

device() {
    printf '%s' "$1" | grep -Eqx '[a-z0-9-]{1,32}' || fail 64 "'$1': a device id is a-z, 0-9 and -, at most 32, never the VIN"
    issue "$1" clientAuth "DNS:$1"
    say "device: $folder/$1.crt as client.crt, $folder/$1.key as client.key, $folder/ca.crt as ca.crt in /etc/edgefer/tls"
}

revoke() {
    need_ca
    # Every certificate of that name that is still valid: a renewed one leaves the one before.
    serials=$(awk -F '\t' -v subject="/CN=$1" '$1 == "V" && $6 == subject { print $4 }' "$folder/index.txt")
    [ -n "$serials" ] || fail 66 "$1: no valid certificate of that name"
    while read -r serial; do
        run openssl ca -config "$folder/ca.cnf" -revoke "$folder/issued/$serial.pem"
    done <<<"$serials"
    run openssl ca -config "$folder/ca.cnf" -gencrl -out "$folder/ca.crl"
    say "copy $folder/ca.crl to the broker (crlfile) and restart it: a reload does not end what is connected"
}

usage() { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 64; }

dry=0 days=""
while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry=1 ;;
        --days) [ $# -gt 1 ] || usage; days=$2; shift ;;
        -*) usage ;;
        *) break ;;
    esac
    shift
done
[ $# -ge 2 ] || usage
command -v openssl >/dev/null || fail 69 "openssl is not installed: apt install openssl"
folder=$1 what=$2
shift 2
case $what:$# in
    ca:0) make_ca ;;
    server:0 | device:0 | revoke:0) usage ;;
    server:*) server "$@" ;;
    device:1) device "$1" ;;
    revoke:1) revoke "$1" ;;
    *) usage ;;
esac
