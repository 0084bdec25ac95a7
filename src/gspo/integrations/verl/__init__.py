"""GAD on verl: a trainer plugin, installed beside verl by the extra `verl`.

`plugin` is what verl loads; it makes the trainer `gad` known (trainer.v1.trainer_mode=gad) and finds the recipe's
configuration. The rest is one part of the run each: the discriminator's loss, the pairs of a batch and their weights,
the rows that verl's workers get, the settings and stages, the checks before the cluster starts.
"""

from __future__ import annotations

__all__: list[str] = []
