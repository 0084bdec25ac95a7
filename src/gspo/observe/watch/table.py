"""The table of all rules, in the order in which they are told."""

from __future__ import annotations

from gspo.observe.watch.critic_rules import CRITIC_RULES
from gspo.observe.watch.policy_rules import POLICY_RULES
from gspo.observe.watch.reward_rules import REWARD_RULES
from gspo.observe.watch.rule import Rule
from gspo.observe.watch.time_rules import TIME_RULES

__all__ = ["RULES"]

RULES: tuple[Rule, ...] = (*POLICY_RULES, *REWARD_RULES, *CRITIC_RULES, *TIME_RULES)
