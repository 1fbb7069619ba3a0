#!/bin/sh
# status.sh JOB: prints running, success or failed, which is all that Snakemake wants to know.
path='{.status.conditions[?(@.status=="True")].type}'
if ! ended=$(kubectl get "$1" --output "jsonpath=$path" 2>&1); then
    # A job that is gone has failed; a server that does not answer says nothing about the job.
    case $ended in *NotFound*) echo failed ;; *) echo running ;; esac
    exit
fi
case $ended in
*Complete*) echo success ;;
*Failed*) echo failed ;;
*) echo running ;;
esac
