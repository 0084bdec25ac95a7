"""The pages in Chromium, where there is one: nothing beyond a phone's width, and values read out under the pointer."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from planted import adversarial_rows, config, folder_of, rows

from gspo.observe.report import Variant, build_comparison, build_report, read_curves

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

# Reports what reaches beyond the window, and what is shown under a pointer in the middle of the first plot.
PROBE = """<script>addEventListener("load", () => {
  const width = document.documentElement.clientWidth, beyond = [];
  document.querySelectorAll("body *").forEach((part) => {
    const place = part.getBoundingClientRect();
    if (place.width && (place.right > width + 1 || place.left < -1) && !part.closest("details, pre"))
      beyond.push(part.tagName + "." + part.className + " " + part.textContent.slice(0, 40));
  });
  const plot = document.querySelector(".plot .box"), frame = plot.getBoundingClientRect();
  const at = { clientX: frame.left + frame.width, clientY: frame.top + 5 };
  plot.dispatchEvent(new PointerEvent("pointermove", at));
  const told = document.getElementById("read-out").innerText;
  parent.postMessage(JSON.stringify({ width, beyond, told, frame: frame.width, height: frame.height }), "*");
});</script></body>"""
FRAME = """<p id="said"></p><script>
addEventListener("message", (event) => { document.getElementById("said").textContent = event.data; });
</script><iframe src="page.html" style="border: 0; width: 390px; height: 900px"></iframe>"""


def probed(page: Path, folder: Path) -> dict[str, Any]:
    """What the probe finds in a page that is shown 390 pixels wide."""
    folder.mkdir()
    (folder / "page.html").write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    (folder / "frame.html").write_text(FRAME, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    command = [str(CHROMIUM), *options, f"--user-data-dir={folder}/profile", (folder / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    said = re.search(r'<p id="said">(.*?)</p>', done.stdout, re.DOTALL)
    assert said
    found: dict[str, Any] = json.loads(unescape(said[1]))
    return found


def test_a_report_fits_a_phone_and_reads_values_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a-run-with-a-long-name-that-has-no-spaces", adversarial_rows(0.99), config())
    sample = {"step": 1, "split": "val", "prompt": "p" * 300, "response": "word " * 100, "reward": 0.5, "length": 9}
    (folder / "samples.jsonl").write_text(json.dumps({**sample, "error": "e" * 200}) + "\n", encoding="utf-8")
    found = probed(build_report(folder), tmp_path / "shown")
    assert found["beyond"] == []
    assert 340 <= found["width"] <= 390
    assert found["frame"] > 200
    assert found["height"] > 150
    assert found["told"].split("\n") == ["step 85", "ROUGE-L 0.4"]


def test_a_comparison_fits_a_phone(tmp_path: Path) -> None:
    runs = [folder_of(tmp_path / name, rows(30, lambda done: 0.2 + 0.3 * done), config()) for name in ("one", "two")]
    variants = [Variant(folder.name, {1: read_curves(folder)}) for folder in runs]
    settings = {folder.name: "actor_rollout_ref.actor.optim.lr_warmup_steps=10, " * 3 for folder in runs}
    found = probed(build_comparison(tmp_path / "c.html", "one / two", variants, settings), tmp_path / "shown")
    assert found["beyond"] == []
    assert found["told"].split("\n") == ["step 30", "one 50.0 %", "two 50.0 %"]
