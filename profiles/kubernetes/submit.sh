#!/bin/sh
# submit.sh RULE THREADS MEM_MB GPU MINUTES SCRIPT: starts a pod that runs SCRIPT, and prints the job's name.
# REACTION_IMAGE and REACTION_CLAIM: the image and the volume claim, both those of the pod that this runs in.
# REACTION_VOLUME: where the volume is mounted; the project's folder must be in it.
set -eu
rule=$1 threads=$2 memory=$3 gpu=$4 minutes=$5 script=$6
: "${REACTION_IMAGE:?the image of the jobs}" "${REACTION_CLAIM:?the volume claim}" "${REACTION_VOLUME:=/shared}"
# Limits, for GPUs are given to pods that have one; requests are then the same by themselves.
limits="cpu: $threads, memory: ${memory}M"
[ "$gpu" -eq 0 ] || limits="$limits, nvidia.com/gpu: $gpu"
kubectl create --output name --filename - << MANIFEST
apiVersion: batch/v1
kind: Job
metadata:
  generateName: reaction-$(echo "$rule" | tr _ -)-
spec:
  backoffLimit: 0  # Snakemake counts the retries
  activeDeadlineSeconds: $((minutes * 60))
  ttlSecondsAfterFinished: 86400  # long after Snakemake has seen the end
  template:
    spec:
      restartPolicy: Never
      tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
      containers:
        - name: job
          image: $REACTION_IMAGE
          workingDir: $PWD
          command: [sh, "$script"]
          env: [{name: PATH, value: "$PATH"}]
          resources: {limits: {$limits}}
          volumeMounts:
            - {name: project, mountPath: "$REACTION_VOLUME"}
            - {name: shm, mountPath: /dev/shm}
      volumes:
        - {name: project, persistentVolumeClaim: {claimName: "$REACTION_CLAIM"}}
        - {name: shm, emptyDir: {medium: Memory}}
MANIFEST
