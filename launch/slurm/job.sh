#!/bin/sh
#SBATCH --output=slurm-%j.out
# The script of a batch job that is one stage: sbatch takes a script, not a command.
#
#     export PRUNELLA_LAUNCHER="sbatch --wait --gres=gpu:1 --time=8:00:00 launch/slurm/job.sh"
#
# The job's status is that of the stage, by which sbatch --wait ends. Options on that line precede those written here.
exec "$@"
