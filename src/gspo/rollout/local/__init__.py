"""The local engine: batched sampling with the trainer's own weights."""

from gspo.rollout.engine import EngineContext, register_engine
from gspo.rollout.local.checking import verify_sampling
from gspo.rollout.local.engine import LocalEngine

__all__ = ["LocalEngine", "make_local"]


@register_engine("local")
def make_local(context: EngineContext) -> LocalEngine:
    """The engine `actor_rollout_ref.rollout.name=local`.

    Raises:
        ValueError: it would sample the policy from another model than is trained; says by how much.
    """
    verify_sampling(context.policy, context.longest)
    return LocalEngine(context.policy, context.tokenizer, seed=context.seed, max_num_seqs=context.max_num_seqs)
