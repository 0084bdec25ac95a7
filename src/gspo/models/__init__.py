"""Models over packed groups: loading, packing, shared-prefix attention, log-probabilities."""

from gspo.models.attention import AttentionContext, use_project_attention
from gspo.models.backbone import Backbone, Compute, Inputs, Read, Reading
from gspo.models.checking import verify_packed_forward
from gspo.models.cpu.fused import use_fused_kernels
from gspo.models.cpu.memory import keep_freed_memory
from gspo.models.ends import Ends, end_token_ids
from gspo.models.loading import load_model, load_tokenizer
from gspo.models.logits import OutputHead, token_log_probs
from gspo.models.packing import PackedRow, micro_batches, pack, teacher_of
from gspo.models.policy import VALUE_HEAD, Policy
from gspo.models.policy_loading import load_actor_tokenizer, load_policy
from gspo.models.prefix_attention import PackedAttention
from gspo.models.preparing import prepare_model
from gspo.models.processor import processor_files
from gspo.models.scalar_head import scalar_head
from gspo.models.scorer import Scorer

__all__ = [
    "VALUE_HEAD",
    "AttentionContext",
    "Backbone",
    "Compute",
    "Ends",
    "Inputs",
    "OutputHead",
    "PackedAttention",
    "PackedRow",
    "Policy",
    "Read",
    "Reading",
    "Scorer",
    "end_token_ids",
    "keep_freed_memory",
    "load_actor_tokenizer",
    "load_model",
    "load_policy",
    "load_tokenizer",
    "micro_batches",
    "pack",
    "prepare_model",
    "processor_files",
    "scalar_head",
    "teacher_of",
    "token_log_probs",
    "use_fused_kernels",
    "use_project_attention",
    "verify_packed_forward",
]
