#!/bin/sh
# A Prefect worker beside a Ray node without CPUs, through which its flows reach the cluster.
set -eu
ray start --address "$RAY_ADDRESS" --num-cpus 0
exec prefect worker start --pool vitflow --type process --name "$(hostname)"
