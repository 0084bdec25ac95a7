"""Tests of the plugin for verl; those that need verl are collected in its environment only (`make test-verl`)."""

from __future__ import annotations

import importlib.util
import os
import sys

collect_ignore_glob: list[str] = []
if importlib.util.find_spec("verl") is None:
    collect_ignore_glob = ["verl_on_cpu.py", "scripted_rollout.py", "test_on_verl_*.py"]
else:
    # Before `import verl`, which reads them; they go on to the processes of ray.
    os.environ |= {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "verl_on_cpu"}
    here = os.path.dirname(__file__)
    sys.path.insert(0, here)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
