#!/usr/bin/env bash
# start_slurm.sh DIR        starts a Slurm of one node for the tests (munge, controller, node daemon) that lives in DIR
# start_slurm.sh DIR stop   stops it
#
# Wants root and Debian's packages slurm-wlm and munge, and touches no configuration of the machine: key, socket, ports
# and state are its own. Prints `export SLURM_CONF=…` for those who use it. There is no accounting database, so `sacct`
# refuses, as it does on many small clusters.
set -euo pipefail
umask 022

dir=${1:?usage: start_slurm.sh DIR [stop]}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
export SLURM_CONF=$dir/slurm.conf

if [ "${2:-}" = stop ]; then
    # slurmd before what it reports to; each is waited for, so that nobody writes into DIR any more when this returns.
    for name in slurmd slurmctld munged; do
        [ -f "$dir/$name.pid" ] && pid=$(cat "$dir/$name.pid") || continue
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 100); do
            kill -0 "$pid" 2>/dev/null || continue 2
            sleep 0.1
        done
        kill -9 "$pid" 2>/dev/null || true
    done
    exit 0
fi

mkdir -p "$dir"/{state,spool,log}
if [ ! -f "$dir/munge.key" ]; then
    (umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
fi
host=$(hostname -s)
cores=$(nproc)
memory=$(awk '/MemTotal/ { print int($2 / 1024 * 0.9) }' /proc/meminfo)
# Ports that no Slurm of the machine's own uses.
port=${SLURM_TEST_PORT:-27817}
cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for as long as its old credential lives; two minutes of that are too long for a test.
AuthInfo=socket=$dir/munge.socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
# Without cgroups, which containers seldom give away.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
# The tests wait for what a cluster takes its time with.
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=100000
KillWait=5
CompleteWait=0
MinJobAge=30
SlurmdTimeout=20
ReturnToService=2
MaxArraySize=20000
MaxJobCount=30000
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF

# Those that run already are left alone.
running() { [ -f "$dir/$1.pid" ] && kill -0 "$(cat "$dir/$1.pid")" 2>/dev/null; }
running munged || munged --force --num-threads=2 --key-file="$dir/munge.key" --socket="$dir/munge.socket" \
    --pid-file="$dir/munged.pid" --log-file="$dir/log/munged.log" --seed-file="$dir/munge.seed"
running slurmctld || slurmctld
for _ in $(seq 40); do
    scontrol ping >/dev/null 2>&1 && break
    sleep 0.25
done
running slurmd || slurmd
for _ in $(seq 80); do
    if sinfo --noheader --format=%t 2>/dev/null | grep -q '^idle$'; then
        echo "export SLURM_CONF=$SLURM_CONF"
        exit 0
    fi
    sleep 0.25
done
echo "the node does not come up; see $dir/log" >&2
sinfo >&2 || true
exit 1
