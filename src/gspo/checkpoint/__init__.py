"""Checkpoints: atomic, bit-exact, safetensors and JSON only (never pickle), with a Hugging Face export."""

from gspo.checkpoint.export import export_hf
from gspo.checkpoint.files import CheckpointError, digest, replace_text, writing
from gspo.checkpoint.loading import Checkpoint, Latest, find_latest, load_checkpoint, newest_step
from gspo.checkpoint.optimizer import load_optimizer, optimizer_to_tensors
from gspo.checkpoint.parts import Part, Stateful
from gspo.checkpoint.rng import rng_state, seed_generators, set_rng_state
from gspo.checkpoint.saving import clear_drafts, save_checkpoint

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Latest",
    "Part",
    "Stateful",
    "clear_drafts",
    "digest",
    "export_hf",
    "find_latest",
    "load_checkpoint",
    "load_optimizer",
    "newest_step",
    "optimizer_to_tensors",
    "replace_text",
    "rng_state",
    "save_checkpoint",
    "seed_generators",
    "set_rng_state",
    "writing",
]
