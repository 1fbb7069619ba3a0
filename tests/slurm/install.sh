#!/bin/sh
# Debian's Slurm, for the tests in this folder. Its services are not started: the tests run daemons of their own.
set -eu
PATH=$PATH:/usr/sbin
missing() { ! command -v slurmctld || ! command -v slurmd || ! command -v sbatch || ! command -v munged; }
if missing > /dev/null; then
    packages="slurmctld slurmd slurm-client munge"
    if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
        echo "Slurm is missing. As root, on Debian or Ubuntu: apt-get install $packages" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    # shellcheck disable=SC2086  # a list
    apt-get install -y -qq --no-install-recommends $packages > /dev/null ||
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages > /dev/null; }
fi
if [ "$(id -u)" != 0 ]; then
    echo "The daemons of the tests must be started as root." >&2
    exit 1
fi
