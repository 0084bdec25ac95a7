"""A tiny model, tiny data and a reward for tests of whole runs, made once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gspo.algorithms import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
from gspo.methods import ADVANTAGES, ENGINES, LOSSES
from gspo.models.scratch import make_model_folder
from gspo.rewards.functions import REWARD_REGISTRY
from gspo.rollout.engine import ENGINE_REGISTRY

# Judges any text, differently enough that groups have a spread.
_REWARD = '''
def compute_score(data_source, solution_str, ground_truth, extra_info):
    """The part of distinct characters, so that random text scores differently."""
    return {"score": len(set(solution_str)) / (1 + len(solution_str)), "acc": float("e" in solution_str)}
'''


@pytest.fixture(autouse=True)
def _registered_names() -> Iterator[None]:
    """What a test registers is unknown to the next one, and a file that registered it is run anew there."""
    tables: tuple[dict[str, Any], ...] = (
        ADV_ESTIMATOR_REGISTRY,
        POLICY_LOSS_REGISTRY,
        ADVANTAGES,
        LOSSES,
        REWARD_REGISTRY,
        ENGINE_REGISTRY,
        ENGINES,
    )
    registries = [(table, dict(table)) for table in tables]
    yield
    for registry, before in registries:
        registry.clear()
        registry.update(before)
    for name in [name for name in sys.modules if name.startswith("gspo_external_")]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("model") / "tiny", hidden_size=32, num_layers=2, max_positions=128)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl (10 rows), test.jsonl (3 rows) and reward.py."""
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("train", 10), ("test", 3)):
        rows = [
            {
                "data_source": "tiny",
                "prompt": [{"role": "user", "content": f"{name} {number}: spell {'abcdefghij'[: number + 1]}"}],
                "reward_model": {"style": "rule", "ground_truth": str(number)},
                "answer": "jihgfedcba"[: number + 1],
            }
            for number in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "reward.py").write_text(_REWARD, encoding="utf-8")
    return folder


@pytest.fixture
def run_overrides(tiny_model_folder: Path, tiny_data: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Overrides of a run of two small steps in `tmp_path / "run"`; further ones are given as key=value texts."""

    def overrides(*further: str) -> list[str]:
        base = {
            "actor_rollout_ref.model.path": tiny_model_folder,
            "actor_rollout_ref.actor.policy_loss": "gspo",
            "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
            "actor_rollout_ref.actor.optim.lr": 1e-3,
            "actor_rollout_ref.rollout.n": 3,
            "custom_reward_function.path": tiny_data / "reward.py",
            "data.train_files": tiny_data / "train.jsonl",
            "data.train_batch_size": 4,
            "data.max_prompt_length": 40,
            "data.max_response_length": 6,
            "trainer.total_training_steps": 2,
            "trainer.default_local_dir": tmp_path / "run",
            "trainer.logger": "[jsonl]",
            "trainer.num_threads": 1,
            "trainer.save_hf": False,
        }
        replaced = {text.partition("=")[0].lstrip("+") for text in further}
        kept = [f"{key}={value}" for key, value in base.items() if key not in replaced]
        return [*kept, *further]

    return overrides
