#!/usr/bin/env bash
# GAD with GSPO on verl:  MODEL=Qwen/Qwen2.5-3B-Instruct DATA=data/teacher/train.parquet bash run_gad_gspo.sh [key=value ...]
# Everything of the run goes into RUN (runs/gad), where `gspo report` reads it. The same command goes on with a run.
set -euo pipefail
: "${MODEL:?the student: a folder or a hub name}" "${DATA:?a parquet file with the columns prompt and teacher_response}"
RUN=${RUN:-runs/gad}
mkdir -p "$RUN"
# verl empties the file that it logs to, so that a run that goes on needs another one.
export VERL_FILE_LOGGER_PATH="$RUN/metrics-$(date +%Y%m%d-%H%M%S).jsonl"
exec python -m verl.trainer.main_ppo --config-path configs --config-name gad_gspo_config \
  algorithm.adv_estimator=grpo \
  actor_rollout_ref.actor.policy_loss=gspo \
  actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean \
  trainer.critic_warmup=10 \
  gad.warmup_epochs=1 \
  trainer.total_epochs=3 \
  actor_rollout_ref.model.path="$MODEL" \
  data.train_files="$DATA" \
  trainer.default_local_dir="$RUN" \
  trainer.rollout_data_dir="$RUN/rollouts" \
  trainer.validation_data_dir="$RUN/validation" \
  "$@"
