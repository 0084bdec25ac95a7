"""The configuration blocks and commands of verl's GSPO guide, as printed, for tests of what they mean and do."""

from __future__ import annotations

ENABLE_GSPO = """\
# 1. 设置优势估计器为 GRPO
algorithm:
  adv_estimator: grpo  # 或 grpo_vectorized（更快）
  norm_adv_by_std_in_grpo: true  # 是否标准化（推荐 true）

# 2. 设置策略损失为 GSPO
actor_rollout_ref:
  actor:
    policy_loss: gspo  # 从 "ppo" 改为 "gspo"
    loss_agg_mode: seq-mean-token-mean  # GSPO 推荐的聚合模式
    clip_ratio: 0.2  # 裁剪参数
    clip_ratio_low: 0.2  # 可选：不对称裁剪
    clip_ratio_high: 0.2
"""

FULL_EXAMPLE = """\
# 算法配置
algorithm:
  adv_estimator: grpo  # 使用 GRPO 优势估计
  norm_adv_by_std_in_grpo: true
  gamma: 1.0
  lam: 0.95
  use_kl_in_reward: false

# Actor 配置
actor_rollout_ref:
  rollout:
    n: 8  # 每个 prompt 生成 8 个回复（GRPO 需要多个样本）
    temperature: 0.8
    top_p: 0.9
    
  actor:
    policy_loss: gspo  # 🔥 使用 GSPO 策略损失
    loss_agg_mode: seq-mean-token-mean  # 🔥 序列级聚合
    clip_ratio: 0.2
    optim:
      lr: 1e-6
    
  ppo_mini_batch_size: 256
  ppo_micro_batch_size_per_gpu: 8
  ppo_epochs: 1

# Critic 配置（如果使用）
critic:
  optim:
    lr: 1e-6
  ppo_epochs: 1
"""

GSPO_WITH_GAD = """\
# 数据配置
data:
  train_files: /path/to/data_with_teacher_response.parquet
  train_batch_size: 256
  max_prompt_length: 2048
  max_response_length: 1536

# 算法配置
algorithm:
  adv_estimator: grpo  # 🔥 GRPO 优势估计
  norm_adv_by_std_in_grpo: true
  gamma: 1.0
  lam: 0.95

# Actor 配置
actor_rollout_ref:
  model:
    path: /path/to/model
  
  rollout:
    n: 8  # 每个 prompt 生成 8 个回复
    temperature: 0.8
  
  actor:
    policy_loss: gspo  # 🔥 GSPO 策略损失
    loss_agg_mode: seq-mean-token-mean  # 🔥 序列级聚合
    clip_ratio: 0.2
    optim:
      lr: 1e-6
  
  ppo_mini_batch_size: 256
  ppo_micro_batch_size_per_gpu: 8
  ppo_epochs: 1

# Critic（判别器）配置
critic:
  model:
    path: /path/to/reward_model
  optim:
    lr: 1e-6
  ppo_epochs: 1
  cliprange_value: 0.2

# 训练配置
trainer:
  critic_warmup: 10  # 前 10 步只训练判别器
  total_epochs: 2
  save_freq: 50
"""

DOTTED = """\
algorithm.adv_estimator: grpo
actor_rollout_ref.actor.policy_loss: gspo
actor_rollout_ref.actor.loss_agg_mode: seq-mean-token-mean
actor_rollout_ref.rollout.n: 8
"""

DOTTED_WITH_GAD = """\
# 在上述基础上添加：
trainer.critic_warmup: 10
data.train_files: /path/to/data_with_teacher_response.parquet
# 并完成 dp_critic.py 的 GAD 适配
"""

PPO_COMMAND = r"""python -m gspo.trainer.main_ppo \
  --config-path configs \
  --config-name ppo_config \
  algorithm.adv_estimator=gae \
  actor_rollout_ref.actor.policy_loss=ppo
"""

GSPO_COMMAND = r"""python -m gspo.trainer.main_ppo \
  --config-path configs \
  --config-name ppo_config \
  algorithm.adv_estimator=grpo \
  actor_rollout_ref.actor.policy_loss=gspo \
  actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean
"""

GAD_COMMAND = r"""python -m gspo.trainer.main_ppo \
  --config-path configs \
  --config-name gad_gspo_config \
  algorithm.adv_estimator=grpo \
  actor_rollout_ref.actor.policy_loss=gspo \
  actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean \
  trainer.critic_warmup=10 \
  data.train_files=/path/to/data_with_teacher_response.parquet
"""
