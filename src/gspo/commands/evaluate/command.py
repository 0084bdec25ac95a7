"""The command: every model answers the same prompts, and the answers are scored, summarised and compared."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from gspo.commands.evaluate.models import Candidate, find_candidates
from gspo.commands.evaluate.results import Evaluation, print_differences, print_results, write_files
from gspo.commands.ready import writable
from gspo.config import Config, load_config, require_honoured
from gspo.config.paths import expanded
from gspo.config.secrets import masked_text
from gspo.config.usage import is_read, keys_read
from gspo.data import PromptDataset, load_dataset
from gspo.evaluation.accuracy import answer_groups, compare, summarize
from gspo.groups import Group, Prompt
from gspo.observe import Heartbeat
from gspo.rewards import RewardManager
from gspo.rollout import EngineContext, RolloutEngine, SamplingParams, require_engine
from gspo.rollout import make_engine as make_named
from gspo.trainer.assembly import answer_sampling
from gspo.trainer.opening import choose_device, longest_sequence

__all__ = ["evaluate_models"]

# A call of the engine is given this many times the responses that it samples at once: new ones take the places of those
# that end, and the batch empties only at the end of a call. What a call holds until its answers are scored is some 20
# bytes for each token: 40 MB for 2048 responses of 1024 tokens.
_ROUNDS_PER_CALL = 8


def evaluate_models(
    args: Namespace,
    *,
    make_engine: Callable[[EngineContext], RolloutEngine] | None = None,
    console: Console | None = None,
) -> int:
    """Evaluates the models that `gspo eval` was given, prints the tables and writes the files.

    Args:
        args: the parsed command line: models, data, n, temperature, top_p, max_samples, out and set.
        make_engine: makes the rollout engine of each model; None: the one that `actor_rollout_ref.rollout.name` names.
        console: where to print; standard output by default.

    Returns:
        the exit code, 0.

    Raises:
        ValueError: an argument, a model, a file or a reward cannot be used; names it and says what to do.
    """
    console = console or Console(highlight=False)
    config = load_config(None, None, args.set)
    _refuse_keys_without_effect(config)
    require_honoured(config)
    for line in config.notes:
        _say(console, line)
    if args.max_samples != -1 and args.max_samples < 1:
        raise ValueError(f"--max-samples is {args.max_samples}: give 1 or more, or leave it out for all rows")
    sampling = _sampling(args, config)
    candidates = find_candidates(args.models, config)
    folder = writable(expanded(args.out, "--out"))
    device = choose_device(config.trainer)
    require_engine(config.rollout.name)
    make_engine = make_engine or partial(make_named, config.rollout.name)
    evaluations: list[Evaluation] = []
    said: set[str] = set()
    with RewardManager(
        config.reward, config.custom_reward_function, max_response_length=sampling.max_tokens
    ) as rewards:
        rewards.keep_output(folder)
        for candidate in candidates:
            groups = _answer(candidate, args, config, sampling, rewards, device, make_engine, console, said)
            differences = compare(groups, evaluations[0].groups) if evaluations else []
            evaluations.append(Evaluation(candidate.name, groups, summarize(groups), differences))
        if rewards.first_error is not None:
            _say(console, f"a reward failed (those responses are unjudged); the first: {rewards.first_error}")
    print_results(console, evaluations, args.n)
    if len(evaluations) > 1:
        console.print()
        print_differences(console, evaluations)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "data": [str(file) for file in args.data],
        "n": args.n,
        "max_samples": args.max_samples,
        "seed": config.trainer.seed,
        "sampling": asdict(sampling),
        "set": list(map(masked_text, args.set)),
    }
    write_files(folder, evaluations, settings)
    _say(console, f"written: {folder / 'results.json'} and {folder / 'responses.jsonl'}")
    return 0


def _answer(
    candidate: Candidate,
    args: Namespace,
    config: Config,
    sampling: SamplingParams,
    rewards: RewardManager,
    device: str,
    make_engine: Callable[[EngineContext], RolloutEngine],
    console: Console,
    said: set[str],
) -> list[Group]:
    """One model's scored groups. The model is freed with the engine on return, so that one is held at a time."""
    tokenizer = candidate.tokenizer()
    rewards.spells_with(tokenizer)
    # One file can be cut as it is read; of several, each gives its first rows.
    limit = args.max_samples if len(args.data) == 1 else -1
    data = load_dataset(args.data, config.data, tokenizer, max_samples=limit)
    prompts = _first_rows(data, args.max_samples)
    _say(console, f"{candidate.name} ({candidate.about}): {len(prompts)} prompts x {args.n}; {data.summary()}")
    rewards.check(prompts)
    for line in rewards.unreadable(prompts):
        if line not in said:
            said.add(line)
            _say(console, line)
    longest, max_num_seqs = longest_sequence(config.data, data), config.rollout.max_num_seqs
    policy = candidate.policy(tokenizer, device, longest)
    engine = make_engine(EngineContext(policy, tokenizer, config.trainer.seed, max_num_seqs, longest))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    total, done = len(prompts) * args.n, 0

    def ended(more: int) -> None:
        nonlocal done
        done += more
        progress.advance(task, more)
        heart.count(done, total)

    try:
        with ExitStack() as stack:
            shown = console.is_terminal
            progress = stack.enter_context(Progress(*columns, console=console, transient=True, disable=not shown))
            task = progress.add_task("responses", total=total)
            heart = Heartbeat(lambda line: _say(console, line))
            if not shown:
                heart.phase("answering")
                stack.enter_context(heart)
            return answer_groups(
                engine,
                rewards,
                prompts,
                sampling,
                n=args.n,
                batch_size=config.data.val_batch_size or max(1, _ROUNDS_PER_CALL * max_num_seqs // args.n),
                on_ended=ended,
            )
    finally:
        engine.close()


def _sampling(args: Namespace, config: Config) -> SamplingParams:
    if args.n < 1:
        raise ValueError(f"--n is {args.n}: give 1 or more responses per prompt")
    temperature = args.temperature if args.temperature is not None else float(args.n > 1)
    if temperature == 0 and args.n > 1:
        raise ValueError(f"--temperature 0 is greedy, and {args.n} greedy responses are all alike: give --n 1, or 1.0")
    rollout, max_tokens = config.rollout, config.data.max_response_length
    sampling = answer_sampling(rollout, max_tokens, temperature, args.top_p)
    if temperature == 0 and sampling.top_p < 1:
        raise ValueError(f"--top-p {args.top_p} has no effect on greedy responses: give --temperature 1.0 with it")
    return sampling


def _refuse_keys_without_effect(config: Config) -> None:
    for key in sorted(config.user_set):
        if not is_read(key, "eval"):
            raise ValueError(
                f"--set {key} has no effect on an evaluation: take it out. What has: {', '.join(keys_read('eval'))} "
                "(how many responses and how they are drawn is said by --n, --temperature and --top-p)"
            )


def _first_rows(data: PromptDataset, max_rows: int) -> list[Prompt]:
    """The prompts of the first rows of each file; a uid ends in its row's number."""
    prompts = [prompt for prompt in data if max_rows < 0 or int(prompt.uid.rpartition(":")[2]) < max_rows]
    if not prompts:
        raise ValueError(
            f"all prompts of the first {max_rows} rows are longer than data.max_prompt_length: raise it or "
            "--max-samples"
        )
    return prompts


def _say(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
