#!/bin/bash
# Runs in the guest, as its only program: inside.sh PROJECT DIRECTORY CACHE TEST..., or --run COMMAND for the tests.
# The guest sees the host's files; only DIRECTORY is written through to the host. What the host has compiled is in
# CACHE: it is the same on every kernel, and takes minutes on an emulated machine.
project=$1 directory=$2
export CACHE_DIRECTORY=$3
shift 3
exec >"$directory/output.txt" 2>&1
set -x

# virtme-ng mounts the host's files without a cache; with one, Python starts twice as fast. What is written to them
# stays in memory: compiled modules, mostly.
mkdir -p /run/cached /run/modules
mount --rbind /usr/lib/modules /run/modules
mount -t 9p -o ro,version=9p2000.L,trans=virtio,msize=512000,cache=loose cached /run/cached
for place in /usr "$project"; do
	mkdir -p "/run/upper$place" "/run/work$place"
	mount -t overlay -o "lowerdir=/run/cached$place,upperdir=/run/upper$place,workdir=/run/work$place" overlay "$place"
done
mkdir -p /usr/lib/modules
mount --rbind /run/modules /usr/lib/modules

# udev is not here to load what a device file asks for.
modprobe -a wireguard veth tun sch_ingress cls_bpf nf_tables
ip link set lo up

cd "$project" || exit
export PATH=$project/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
unset PYTHONDONTWRITEBYTECODE
export HOME=/run HYPOTHESIS_STORAGE_DIRECTORY=/run/hypothesis
export JETPLANE_REQUIRE=kernel-wireguard JETPLANE_REPORTS=$directory/reports.jsonl
set +x
if [[ $1 == --run ]]; then
	shift
	"$@"
	echo $? >"$directory/status"
	exit
fi
# Nothing there needs hypothesis, whose import takes seconds.
pytest -p no:cacheprovider -p no:hypothesispytest -m "not native" --basetemp /run/pytest tests/vm/inside "$@"
