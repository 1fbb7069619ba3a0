#!/bin/sh
# status.sh JOB: prints running, success or failed, which is all that Snakemake wants to know.
job=$1
case $(command -v qacct qstat) in
*qacct*) # SGE: qstat knows the jobs in the queue, qacct those that have ended, a little later
    if qstat -j "$job" > /dev/null 2>&1; then
        echo running
        exit
    fi
    for _ in 1 2 3 4 5 6; do
        status=$(qacct -j "$job" 2> /dev/null | awk '$1 == "exit_status" {last = $2} END {print last}')
        [ -n "$status" ] && break
        sleep 5
    done
    ;;
*) # PBS: -x has the ended jobs too; a server that is too busy to answer has not lost the job
    described=$(qstat -x -f "$job" 2> /dev/null) || described="job_state = Q"
    case $described in
    *"job_state = "[FC]*) status=$(echo "$described" | awk '$1 == "Exit_status" {print $3}') ;;
    *)
        echo running
        exit
        ;;
    esac
    ;;
esac
if [ "$status" = 0 ]; then echo success; else echo failed; fi
