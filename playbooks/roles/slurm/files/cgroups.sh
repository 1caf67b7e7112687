#!/bin/sh
# Say whether Slurm could enforce limits with this node's cgroups, writing nothing:
#   cgroup=v1 swap=yes | cgroup=v2 swap=no | cgroup=none REASON
# Usage: cgroups.sh [ROOT], where ROOT stands in for /sys/fs/cgroup in tests.
root=${1:-/sys/fs/cgroup}

if [ -f "$root/cgroup.controllers" ]; then
    for controller in cpuset cpu memory; do
        grep -qw "$controller" "$root/cgroup.controllers" ||
            { echo "cgroup=none controller $controller is missing in $root/cgroup.controllers"; exit; }
    done
    [ -w "$root/cgroup.subtree_control" ] ||
        { echo "cgroup=none $root/cgroup.subtree_control is read-only"; exit; }
    version=v2
    # the root cgroup has no limits of its own: look one level down
    set -- "$root"/*/memory.swap.max
else
    for controller in cpuset memory devices freezer; do
        # test -w knows a read-only mount even for root
        [ -f "$root/$controller/cgroup.procs" ] && [ -w "$root/$controller" ] ||
            { echo "cgroup=none $root/$controller is missing or read-only"; exit; }
    done
    version=v1
    set -- "$root/memory/memory.memsw.limit_in_bytes"
fi
[ -e "$1" ] && swap=yes || swap=no
echo "cgroup=$version swap=$swap"
