"""What happens between the composition of the recipe's configuration and the start of the cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from gspo.integrations.verl.data_check import check_data
from gspo.integrations.verl.settings import check_config

__all__ = ["BeforeCluster", "with_policy_loss_section"]


class BeforeCluster(Callback):
    """Reads `policy_loss=gspo` as verl's section, and checks the configuration and the data.

    Hydra runs it in the process of the command line, from the recipe's `hydra.callbacks`.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before verl's main function.

        Raises:
            SystemExit: of the configuration or of a row of the data; names it and says what to do. (Hydra turns any
                exception of a callback into a warning and goes on.)
        """
        del kwargs
        with_policy_loss_section(config)
        try:
            count = check_data(config, check_config(config))
        except ValueError as error:
            raise SystemExit(f"gspo: {error}") from None
        print(f"gad: {count} rows of data.train_files have a teacher's text")
        _write_config(config)


def _write_config(config: DictConfig) -> None:
    """Puts the configuration where `gspo report` looks for it."""
    plain = {key: config[key] for key in config if key != "hydra"}
    resolved = OmegaConf.to_container(OmegaConf.create(plain), resolve=True)
    folder = Path(config.trainer.default_local_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(resolved)), encoding="utf-8")


def with_policy_loss_section(config: DictConfig) -> None:
    """Turns actor_rollout_ref.actor.policy_loss=NAME into verl's section with loss_mode=NAME, in place."""
    actor = config.actor_rollout_ref.actor
    if isinstance(actor.policy_loss, str):
        section = {"_target_": "verl.workers.config.PolicyLossConfig", "loss_mode": actor.policy_loss}
        with open_dict(config):
            actor.policy_loss = OmegaConf.create(section)
