"""Algorithms as pure functions: tensors in, (loss, metrics) out.

No model, no file, no process group, no configuration beyond the numbers given. Names, arguments, shapes and values are
those of `verl.trainer.ppo.core_algos`, so that code written for it finds the same here; where a default differs, the
docstring says so. Tensors are (sequences, tokens) with a 0/1 `response_mask`, under which anything may stand. Metrics
are `Mean`, `Max` or `Min`: merge them over micro-batches and ranks, then call `float()`.
"""

from gspo.algorithms.advantages import (
    compute_gdpo_outcome_advantage,
    compute_grpo_outcome_advantage,
    compute_grpo_passk_outcome_advantage,
    compute_grpo_vectorized_outcome_advantage,
    compute_opo_outcome_advantage,
    compute_reinforce_plus_plus_baseline_outcome_advantage,
    compute_rloo_outcome_advantage,
    compute_rloo_vectorized_outcome_advantage,
)
from gspo.algorithms.aggregation import (
    LossAggMode,
    agg_loss,
    masked_mean,
    masked_sum,
    masked_var,
    masked_whiten,
)
from gspo.algorithms.discriminator import (
    compute_discriminator_loss,
    last_token_value,
)
from gspo.algorithms.grouping import (
    group_numbers,
)
from gspo.algorithms.kl import (
    AdaptiveKLController,
    FixedKLController,
    get_kl_controller,
    kl_penalty,
)
from gspo.algorithms.registry import (
    ADV_ESTIMATOR_REGISTRY,
    POLICY_LOSS_REGISTRY,
    AdvantageEstimator,
    get_adv_estimator_fn,
    get_policy_loss_fn,
    register_adv_est,
    register_advantage,
    register_policy_loss,
)
from gspo.algorithms.returns import (
    compute_gae_advantage_return,
    compute_reinforce_plus_plus_outcome_advantage,
)
from gspo.algorithms.rollout_correction import (
    compute_rollout_correction_and_rejection_mask,
    compute_rollout_correction_weights,
    compute_rollout_rejection_mask,
)
from gspo.algorithms.rollout_drift import (
    compute_offpolicy_metrics,
)
from gspo.algorithms.rollout_metrics import (
    compute_is_metrics,
)
from gspo.algorithms.sequence_losses import (
    compute_policy_loss_geo_mean,
    compute_policy_loss_gspo,
    compute_policy_loss_gspo_token,
)
from gspo.algorithms.settings import (
    PolicyLossSettings,
)
from gspo.algorithms.stats import (
    Max,
    Mean,
    Min,
    Stat,
    merge_stats,
    to_floats,
)
from gspo.algorithms.token_losses import (
    compute_policy_loss_cispo,
    compute_policy_loss_sapo,
    compute_policy_loss_vanilla,
)
from gspo.algorithms.value_losses import (
    compute_value_loss,
    explained_variance,
    explained_variance_sums,
)

__all__ = [
    "ADV_ESTIMATOR_REGISTRY",
    "POLICY_LOSS_REGISTRY",
    "AdaptiveKLController",
    "AdvantageEstimator",
    "FixedKLController",
    "LossAggMode",
    "Max",
    "Mean",
    "Min",
    "PolicyLossSettings",
    "Stat",
    "agg_loss",
    "compute_discriminator_loss",
    "compute_gae_advantage_return",
    "compute_gdpo_outcome_advantage",
    "compute_grpo_outcome_advantage",
    "compute_grpo_passk_outcome_advantage",
    "compute_grpo_vectorized_outcome_advantage",
    "compute_is_metrics",
    "compute_offpolicy_metrics",
    "compute_opo_outcome_advantage",
    "compute_policy_loss_cispo",
    "compute_policy_loss_geo_mean",
    "compute_policy_loss_gspo",
    "compute_policy_loss_gspo_token",
    "compute_policy_loss_sapo",
    "compute_policy_loss_vanilla",
    "compute_reinforce_plus_plus_baseline_outcome_advantage",
    "compute_reinforce_plus_plus_outcome_advantage",
    "compute_rloo_outcome_advantage",
    "compute_rloo_vectorized_outcome_advantage",
    "compute_rollout_correction_and_rejection_mask",
    "compute_rollout_correction_weights",
    "compute_rollout_rejection_mask",
    "compute_value_loss",
    "explained_variance",
    "explained_variance_sums",
    "get_adv_estimator_fn",
    "get_kl_controller",
    "get_policy_loss_fn",
    "group_numbers",
    "kl_penalty",
    "last_token_value",
    "masked_mean",
    "masked_sum",
    "masked_var",
    "masked_whiten",
    "merge_stats",
    "register_adv_est",
    "register_advantage",
    "register_policy_loss",
    "to_floats",
]
