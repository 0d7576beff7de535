#!/bin/sh
# Say of a Kubernetes Job, in Snakemake's words, how it is: running, success or failed. One that is gone has failed.
said=$(kubectl get job "$1" --ignore-not-found --output='jsonpath={.kind} {.status.conditions[?(@.status=="True")].type}') ||
  said="Job, but the cluster does not answer now"
case " $said " in
  *" Complete "*) echo success ;;
  *" Failed "*) echo failed ;;
  *" Job"*) echo running ;;
  *) echo failed ;;
esac
