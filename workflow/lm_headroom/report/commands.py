"""The commands that draw figures and write pages, driven by the table of products."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from lm_headroom.errors import HeadroomError
from lm_headroom.options import Controls, Counts, Judged, Models, Names, OutFile, Points, Shown, command_of, converter
from lm_headroom.report.products import COMPARISONS, SUFFIXES, Product, captions, named
from lm_headroom.study.choices import (
    ACCURACY,
    DEFAULT_MARGINS,
    CapacityScale,
    FigureTitle,
    FigureWidth,
    ImportanceScale,
    Outcome,
    Sample,
    Statistic,
)
from lm_headroom.study.judged import JudgedOutcome

NEEDED = ("tasks", "shots", "seeds", "models", "products")
"""Options without which a product that has them shows nothing."""


def _name_among(names: Collection[str]) -> Any:
    """An argument that is one of these names."""

    def parse(text: str) -> str:
        if text in names:
            return text
        raise ValueError(f"{text!r} is none of {', '.join(sorted(names))}")

    return converter(parse)


FigureName = Annotated[str, _name_among({row.base for row in named("figure").values()})]
TableName = Annotated[str, _name_among({row.base for row in named("table").values()})]
PageName = Annotated[str, _name_among({row.base for row in named("page").values()})]
ComparisonName = Annotated[str, _name_among([row.name for row in COMPARISONS])]


def figure(
    name: FigureName,
    /,
    *,
    results: Path,
    out: OutFile,
    tasks: Names = (),
    shots: Counts = (),
    seed: int = 1234,
    controls: Controls = (),
    custom_heads: Names = (),
    custom_ffns: Names = (),
    experts: Names = (),
    only: Shown = (),
    unseen: Names = (),
    transfer: Names = (),
    ablated: Names = (),
    models: Models = (),
    correlation: Statistic = "spearman",
    iterative: bool = False,
    outcome: Outcome = ACCURACY,
    margin: Points = None,
    without_induction: bool = False,
    width: FigureWidth = "double",
    title: FigureTitle = "above",
    importance_scale: ImportanceScale = "linear",
    capacity_scale: CapacityScale = "retained",
) -> None:
    """Draw a figure from artifacts.

    Args:
        name: the figure, such as fig05, oracle_ffns or compare_rankings.
        results: the model's results folder; of a figure that compares models, the folder that holds theirs.
        out: where it goes; .pdf, .svg and .png are written, whichever suffix is given.
        tasks: tasks of the study, in its order.
        shots: numbers of few-shot examples.
        seed: seed of the few-shot sampler.
        controls: control rankings evaluated beside the own one.
        custom_heads: rankings of heads of your own that were evaluated.
        custom_ffns: further rankings of FFNs alone: your own, and oracles that heads lack.
        experts: rankings of experts that were evaluated, the own one first.
        only: of the comparison of criteria, what was pruned: heads, ffns or experts; all by default.
        unseen: tasks that are no part of the aggregate.
        transfer: tasks evaluated under other tasks' rankings.
        ablated: tasks evaluated without induction heads.
        models: models to compare, each as NAME, NAME,group=G or NAME,group=G,step=N.
        correlation: the statistic by which tasks are compared.
        iterative: heads were also pruned under the iterative ranking.
        outcome: what evaluations are judged by.
        margin: loss that counts as none, in points, percent of the whole model's or nats per byte; 2 points by default.
        without_induction: heads have no induction scores.
        width: of one column of a paper (77 mm) or of both (160 mm).
        title: a title above the panels, or none.
        importance_scale: of Figures 3 and 12 to 14, the scale of colours.
        capacity_scale: of Figures 11, 18 and 19, the share retained or its difference to chance.

    Example:
        lm-headroom figure fig05 --results results/opt --tasks copa piqa --shots 0 5 --out fig05
    """
    make(_judged("figure", name, outcome), locals())


def table(
    name: TableName,
    /,
    *,
    results: Path,
    out: OutFile,
    tasks: Names = (),
    shots: Counts = (),
    seed: int = 1234,
    seeds: Counts = (),
    controls: Controls = (),
    custom_heads: Names = (),
    custom_ffns: Names = (),
    experts: Names = (),
    only: Shown = (),
    unseen: Names = (),
    transfer: Names = (),
    ablated: Names = (),
    outcome: Outcome = ACCURACY,
    outcomes: Judged = (),
    margin: Points = None,
    sample: Sample = "first",
    joint: bool = False,
    iterative: bool = False,
    without_induction: bool = False,
) -> None:
    """Write a table from artifacts.

    Args:
        name: the table, such as headroom, losses or table1.
        results: the model's results folder.
        out: where it goes; .csv, .md and .html are written, whichever suffix is given.
        tasks: tasks of the study, in its order.
        shots: numbers of few-shot examples.
        seed: seed of the few-shot sampler.
        seeds: few-shot seeds; their variance needs two or more.
        controls: control rankings evaluated beside the own one.
        custom_heads: rankings of heads of your own that were evaluated.
        custom_ffns: further rankings of FFNs alone: your own, and oracles that heads lack.
        experts: rankings of experts that were evaluated, the own one first.
        only: of the comparison of criteria, what was pruned: heads, ffns or experts; all by default.
        unseen: tasks that are no part of the aggregate.
        transfer: tasks evaluated under other tasks' rankings.
        ablated: tasks evaluated without induction heads.
        outcome: what evaluations are judged by.
        outcomes: of the table of outcomes, those compared, each with its margin, such as accuracy=2; all by default.
        margin: loss of the outcome that counts as none, in points, percent of the whole model's or nats per byte; the
            default of a study if not given, 2 points of accuracy.
        sample: the choice of scoring documents; a `shuffled` one depends on the seed.
        joint: heads and FFNs were also pruned together.
        iterative: heads were also pruned under the iterative ranking.
        without_induction: heads have no induction scores.

    Example:
        lm-headroom table headroom --results results/opt --tasks copa piqa --shots 0 --seeds 1234 --out headroom
    """
    make(_judged("table", name, outcome), locals())


def page(
    name: PageName,
    /,
    *,
    results: Path,
    out: OutFile,
    tasks: Names = (),
    shots: Counts = (),
    seeds: Counts = (),
    controls: Controls = (),
    custom_heads: Names = (),
    custom_ffns: Names = (),
    experts: Names = (),
    models: Models = (),
    outcomes: Judged = (),
    iterative: bool = False,
    without_induction: bool = False,
    products: Names = (),
) -> None:
    """Write a page for a browser: a model's first page, the explorer of its heads and FFNs, or a comparison of models.

    Args:
        name: the page, index, explorer or comparison.
        results: the model's results folder; of a comparison, the folder that holds theirs.
        out: where it goes; .html is written, whether or not the suffix is given.
        tasks: tasks of the study, in its order.
        shots: numbers of few-shot examples.
        seeds: few-shot seeds; their variance needs two or more.
        controls: control rankings evaluated beside the own one.
        custom_heads: rankings of heads of your own that were evaluated.
        custom_ffns: further rankings of FFNs alone: your own, and oracles that heads lack.
        experts: rankings of experts that were evaluated, the own one first.
        models: models to compare, each as NAME, NAME,group=G or NAME,group=G,step=N.
        outcomes: what evaluations are judged by, each with its margin, such as accuracy=2; accuracy by default.
        iterative: heads were also pruned under the iterative ranking.
        without_induction: heads have no induction scores.
        products: of the first page, what it leads to: figures, tables, findings and pages, each as its path below the
            model's results folder without suffix, `=`, and what it is called; of a comparison, its artifacts and
            figures, with paths below the folder `comparison`.

    Example:
        lm-headroom page explorer --results results/opt --tasks copa piqa --shots 0 --seeds 1234 --out explorer
    """
    make(named("page")[name], locals())


def findings(
    *,
    results: Path,
    out: OutFile,
    tasks: Sequence[str],
    shots: Counts,
    seed: int = 1234,
    controls: Controls = (),
    custom_heads: Names = (),
    custom_ffns: Names = (),
    unseen: Names = (),
    transfer: Names = (),
    ablated: Names = (),
    outcomes: Judged = (),
    joint: bool = False,
    iterative: bool = False,
    selection_bias: bool = False,
    without_induction: bool = False,
) -> None:
    """Write a study's findings in words, from its artifacts.

    Args:
        results: the model's results folder.
        out: where it goes; .md and .html are written, whichever suffix is given.
        tasks: tasks of the study, in its order.
        shots: numbers of few-shot examples.
        seed: seed of the few-shot sampler.
        controls: control rankings evaluated beside the own one.
        custom_heads: rankings of heads of your own that were evaluated.
        custom_ffns: further rankings of FFNs alone: your own, and oracles that heads lack.
        unseen: tasks that are no part of the aggregate.
        transfer: tasks evaluated under other tasks' rankings.
        ablated: tasks evaluated without induction heads.
        outcomes: what evaluations are judged by, each with the loss that counts as none, such as accuracy=2; by
            default accuracy with a margin of 2 points.
        joint: heads and FFNs were also pruned together.
        iterative: heads were also pruned under the iterative ranking.
        selection_bias: FFNs were also ranked by the other documents.
        without_induction: heads have no induction scores.

    Example:
        lm-headroom findings --results results/opt --tasks copa piqa --shots 0 --out findings
    """
    make(named("findings")["findings"], locals())


def compare(
    what: ComparisonName,
    /,
    *,
    results: Path,
    out: OutFile,
    models: Models,
    tasks: Names = (),
    shots: Counts = (),
    seed: int | None = None,
    outcomes: Judged = (),
) -> None:
    """Compare the models of a study, from their artifacts.

    Comparisons of `models` and of `induction` need no tasks, shots and seed; the others need all three.

    Args:
        what: models (what they are, which all figures need), prunable, rankings, induction or profiles.
        results: the folder that holds the models' results folders.
        out: the artifact.
        models: models to compare, each as NAME, NAME,group=G or NAME,group=G,step=N.
        tasks: tasks of the study, in its order.
        shots: numbers of few-shot examples.
        seed: seed of the few-shot sampler.
        outcomes: what `prunable` judges by, each with the loss that counts as none, such as accuracy=2; by default
            accuracy with a margin of 2 points.

    Example:
        lm-headroom compare rankings --results results --models a b --tasks copa --shots 0 --seed 1 --out srcc.parquet
    """
    from lm_headroom.results.comparison import Comparison

    by_shot = what not in ("models", "induction")
    if by_shot and not (tasks and shots and seed is not None):
        raise HeadroomError(f"comparing {what} needs --tasks, --shots and --seed")
    matrix: dict[str, Any] = {"tasks": tuple(tasks), "shots": tuple(shots), "seed": seed} if by_shot else {}
    if what == "prunable":
        matrix["outcomes"] = tuple(outcomes) or (JudgedOutcome(ACCURACY, DEFAULT_MARGINS[ACCURACY]),)
    command_of(f"compare_{what}")(out=out, comparison=Comparison(results, tuple(models), **matrix))


def _judged(kind: str, name: str, outcome: Outcome) -> Product:
    """A product of an outcome.

    Raises:
        HeadroomError: it does not depend on outcomes.
    """
    full = name if outcome == ACCURACY else f"{name}_{outcome}"
    if full not in named(kind):
        raise HeadroomError(f"{kind} {name} shows no evaluations, so --outcome {outcome} does not apply")
    return named(kind)[full]


def make(product: Product, values: dict[str, Any]) -> None:
    """Make a figure or page.

    Args:
        product: what is made.
        values: options of its command by name; those that it does not depend on are left out.

    Raises:
        HeadroomError: an option that it needs is missing.
    """
    from lm_headroom.results.comparison import Comparison
    from lm_headroom.results.matrix import ResultsMatrix

    needed = (*NEEDED, "ablated") if product.base == "induction_ablation" else NEEDED
    missing = [name for name in product.options if name in needed and not values[name]]
    if missing:
        raise HeadroomError(f"{product.kind} {product.base} needs {' and '.join(f'--{name}' for name in missing)}")
    options = {name: values[name] for name in product.options}
    options = {name: tuple(value) if isinstance(value, list | tuple) else value for name, value in options.items()}
    if "margin" in options:
        options["margin"] = options["margin"] or DEFAULT_MARGINS[product.outcome]
    arguments: dict[str, Any] = {name: options.pop(name) for name in ("seeds", "sample", "products") if name in options}
    if "products" in arguments:
        arguments["captions"] = captions(arguments["products"], values["results"].name)
    if "sample" in arguments:
        arguments["same_documents"] = arguments.pop("sample") == "first"
    if product.kind == "figure":
        from lm_headroom.report.figures.layout import Layout

        names = {field.name for field in fields(Layout)}
        arguments["layout"] = Layout(**{name: options.pop(name) for name in names & options.keys()})
    if product.outcome != ACCURACY:
        options["outcome"] = product.outcome
    if "{seed}" in product.stem:
        options["seed"] = values["seed"]
    function = getattr(import_module(f"lm_headroom.{product.module}"), product.function.partition(":")[2])
    if product.compares:
        shown: Any = Comparison(values["results"], **options)
    else:
        shown = ResultsMatrix(values["results"], **{"tasks": (), "shots": (), **options})
    out = _stem(values["out"], product)
    function(shown.path(product.artifact) if product.artifact else shown, out=out, **arguments, **product.arguments)
    if out != values["out"]:
        print(f"wrote {', '.join(f'{out}.{suffix}' for suffix in product.suffixes)}", file=sys.stderr)


def _stem(out: Path, product: Product) -> Path:
    """A path without the suffix of one of a product's files; other dots belong to its name.

    Raises:
        HeadroomError: it ends as a file of another kind does.
    """
    suffix = out.suffix.removeprefix(".")
    if suffix in product.suffixes:
        return out.with_suffix("")
    if suffix in {other for suffixes in SUFFIXES.values() for other in suffixes}:
        raise HeadroomError(
            f"--out {out}: a {product.kind} is not written as {out.suffix}; expected "
            f"{', '.join(f'.{known}' for known in product.suffixes)}, or no suffix"
        )
    return out
