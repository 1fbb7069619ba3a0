#!/bin/sh
# cancel.sh JOB...: without waiting for the pods to be gone, which takes longer than Snakemake waits.
exec kubectl delete --wait=false "$@"
