"""What a run says of itself while it goes on: rules over the metrics of its steps, each told once.

`Watch` is fed with one row of metrics a step and returns the warnings that have become due. `RULES` is the table of
them; a rule holds for the settings in force, which `Facts` names.
"""

from gspo.observe.watch.facts import Facts
from gspo.observe.watch.history import History, Row
from gspo.observe.watch.rule import Rule
from gspo.observe.watch.table import RULES
from gspo.observe.watch.watch import Told, Watch

__all__ = ["RULES", "Facts", "History", "Row", "Rule", "Told", "Watch"]
