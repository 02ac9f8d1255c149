"""The table of products: every figure and page, what it shows of which study, and the function that makes it.

The rules that draw and write, the report, the commands `figure`, `table` and `findings`, and docs/artifacts.md come
from it. Standard library only: the Snakefile imports this module at every parse. No figure and no page imports it, so
that a new row makes none of them again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from hashlib import sha256
from itertools import chain
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from lm_headroom.artifacts.catalogue import ARTIFACTS, expand, fill
from lm_headroom.errors import HeadroomError
from lm_headroom.study.choices import ACCURACY, OUTCOMES, Outcome
from lm_headroom.study.judged import JudgedOutcome
from lm_headroom.study.ranking_names import ABLATED_OWN, AGGREGATE
from lm_headroom.workflow_files import WORKFLOW

if TYPE_CHECKING:
    from lm_headroom.study.config import Study

_CAPTIONS = WORKFLOW / "report"
Kind = Literal["figure", "table", "page", "findings", "compare"]
Paths = Callable[["Study"], list[str]]
SUFFIXES: dict[str, tuple[str, ...]] = {
    "figure": ("pdf", "svg", "png"),
    "table": ("csv", "md", "html"),
    "page": ("html",),
    "findings": ("md", "html"),
    "compare": ("parquet",),
}
"""Files of a product of each kind; the report shows the last."""
VERBS = {"figure": "draw", "table": "write", "page": "write", "findings": "write", "compare": "compare"}
"""How the names of their rules begin."""
OWN_SHOTS = {"fig09": 0, "fig12": 0, "fig13": 1, "fig14": 5, "fig15": 5, "fig16": 1, "fig17": 5}
"""Figures that show one number of shots."""


def _read(artifact: str, **chosen: Any) -> Paths:
    """Paths of an artifact of one model and seed; values are taken from the study where they are functions of it."""

    def paths(study: Study) -> list[str]:
        values = {name: value(study) if callable(value) else value for name, value in chosen.items()}
        return ARTIFACTS[artifact].paths(study, **{"model": "{model}", "seed": "{seed}", **values})

    return paths


def _together(*reads: Paths) -> Paths:
    return lambda study: list(dict.fromkeys(chain.from_iterable(paths(study) for paths in reads)))


def _with_chance(name: str) -> Paths:
    return _together(_prompts("all_tasks", _shots_of(name)), _transfer(name))


def _each(dimension: str, *reads: Paths) -> Paths:
    """The same of each model or seed of the study."""

    def paths(study: Study) -> list[str]:
        values = {"model": list(study.models), "seed": study.seeds}[dimension]
        return [place for path in _together(*reads)(study) for place in expand(path, **{dimension: values})]

    return paths


def _tasks(study: Study) -> list[str]:
    return study.tasks


def _shots_of(name: str) -> Callable[[Study], list[int]]:
    """Numbers of shots that a figure shows: Figure 8 all but the 5 of Figure 15."""
    if name == "fig08":
        return lambda study: [shots for shots in study.shots if shots != 5]
    if name in OWN_SHOTS:
        return lambda study: [shots for shots in study.shots if shots == OWN_SHOTS[name]]
    return lambda study: study.shots


def _transfer(name: str) -> Paths:
    return _read(
        "pruned_eval",
        component="heads",
        task=lambda study: [*study.transfer_tasks, *study.unseen],
        ranking=["own", AGGREGATE, "highest_srcc", "lowest_srcc"],
        shot=_shots_of(name),
    )


def _curves(component: str, *rankings: str) -> Paths:
    """Curves of the study's tasks; rankings that the study lacks are left out."""

    def names(study: Study) -> list[str]:
        by_component = {
            "heads": [*study.own_rankings[1:], *study.custom_rankings("heads")],
            "ffns": [*study.pruning.of_ffns, *study.custom_rankings("ffns")],
            "experts": study.experts.rankings[1:],
        }
        controls = by_component[component]
        return [name for ranking in rankings for name in (controls if ranking == "controls" else [ranking])]

    return _read("pruned_eval", component=component, task=_tasks, ranking=names)


def _prompts(tasks: str, shots: Callable[[Study], Any] = lambda study: min(study.shots)) -> Paths:
    """Prompts, for chance levels, which do not depend on the number of shots: the shortest serve."""
    return _read("prompts", task=lambda study: getattr(study, tasks), shot=shots)


_OWN_HEADS = _curves("heads", "own")
_AGGREGATE_HEADS = _curves("heads", AGGREGATE)
_ALL_HEADS = _curves("heads", "own", "controls", AGGREGATE, "iterative")
_OWN_FFNS = _curves("ffns", "own")
_ALL_FFNS = _curves("ffns", "own", "controls")
_ALL_EXPERTS = _curves("experts", "own", "controls")
_OTHER_FFNS = _together(_read("ffn_selection"), _curves("ffns", "other_documents"))
_FFNS = _read("ffn_importance", task=_tasks)
_JOINT = _read("joint_eval")
_AGGREGATE_SCORES = _read("head_importance", task=AGGREGATE)
_ALL_SCORES = _read("head_importance", task=lambda study: [*study.tasks, AGGREGATE])
_INDUCTION = _together(_read("prefix_matching"), _read("copying"))
_CAPACITY = _read("capacity")
_ABLATION = _read("induction_ablation")
_SCORED_TASKS = _read("head_importance", task=lambda study: study.oracle_tasks)
_ORACLES = _together(_read("ffn_gradient", task=_tasks), _FFNS, _SCORED_TASKS, _read("head_oracle"))


@dataclass(frozen=True)
class Product:
    """A row of the table.

    Attributes:
        kind: figure, table, page, or findings.
        name: what its command calls it, and in the workflow a figure's target.
        stem: its path below the results folder, without suffix.
        section: of the report; empty for the comparison of models.
        label: what the report calls it.
        caption: name of the caption in workflow/report, without suffix.
        function: module and name of the function that makes it.
        reads: paths of what it shows, below the results folder, with the fields of its own path.
        options: of its command, beside those that say which results are shown.
        lists: lists of the study that it depends on, since its inputs may grow with them.
        shots: numbers of shots that it shows.
        artifact: its only input, where its function is given that file alone.
        arguments: what its function is told besides.
        has: whether a study has it, given that some number of shots is shown.
        title: what it shows, as docs/artifacts.md says it; empty where another row's title speaks for both.
        outcome: what evaluations are judged by.
    """

    kind: Kind
    name: str
    stem: str
    section: str
    label: str
    caption: str
    function: str
    reads: Paths
    options: tuple[str, ...] = ()
    lists: tuple[str, ...] = ("tasks", "shots")
    shots: Callable[[Study], list[int]] = lambda study: study.shots
    artifact: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    has: Callable[[Study], bool] = lambda study: True
    title: str = ""
    outcome: Outcome = ACCURACY

    @property
    def base(self) -> str:
        """Its name whatever the outcome, as its command has it."""
        return self.name.removesuffix(f"_{self.outcome}")

    @property
    def module(self) -> str:
        """The module whose code it depends on."""
        return self.function.partition(":")[0]

    @property
    def rule(self) -> str:
        """The rule that makes it."""
        return f"{VERBS[self.kind]}_{self.name}"

    @property
    def compares(self) -> bool:
        """Whether it shows several models."""
        return not self.stem.startswith("{model}")

    @property
    def message(self) -> str:
        """What its rule says that it does."""
        whose = "the models" if self.compares else "{wildcards.model}"
        name = " ".join(dict.fromkeys((self.kind, self.name.replace("_", " "))))
        return f"{VERBS[self.kind].capitalize()} {name} of {whose}."

    @property
    def place_options(self) -> list[str]:
        """Options of its command that say which results it shows, with wildcards."""
        seed = ["--seed", "{seed}"] if "{seed}" in self.stem else []
        return ["--results", "results" if self.compares else "results/{model}", *seed]

    @property
    def target(self) -> str:
        """The workflow's target that asks for it."""
        return "comparison" if self.compares else "tables" if self.kind == "table" else "figures"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of its files, the one that the report shows last."""
        return SUFFIXES[self.kind]

    @property
    def files(self) -> dict[str, str]:
        """Suffix to path of its files, from the working folder."""
        return {suffix: f"results/{self.stem}.{suffix}" for suffix in self.suffixes}

    @property
    def in_report(self) -> dict[str, Any]:
        """Where the report shows it, and as what."""
        labels = {"result": self.label} | ({"seed": "{seed}"} if "{seed}" in self.stem else {})
        category = "comparison" if self.compares else "{model}"
        return {"category": category, "subcategory": self.section or None, "labels": labels}

    @property
    def is_of_paper(self) -> bool:
        """Whether it is a figure of the paper, which has a number."""
        return self.name.startswith("fig")

    @property
    def caption_facts(self) -> dict[str, str]:
        """What its caption needs to know; of a page with captions, which texts those are."""
        number = {"number": self.base.removeprefix("fig").lstrip("0")} if self.is_of_paper else {}
        texts = {"captions": _digest_of_captions()} if "products" in self.options else {}
        return {**number, **self.arguments, **texts, "outcome": self.outcome}

    def is_at(self, stem: str) -> bool:
        """Whether a path without suffix, below a model's folder or that of comparisons, is its own."""
        parts = self.stem.partition("/")[2].split("{seed}")
        return re.fullmatch(r"\d+".join(map(re.escape, parts)), stem) is not None

    def is_of(self, study: Study) -> bool:
        """Whether a study has it."""
        return bool(self.shots(study)) and self.has(study)

    def paths(self, study: Study) -> list[str]:
        """Its files of all models and seeds of a study, below the results folder; none where the study lacks it."""
        stems = expand(self.stem, model=list(study.models), seed=study.seeds) if self.is_of(study) else []
        return [f"{stem}.{suffix}" for stem in stems for suffix in self.suffixes]

    def command(self, study: Study) -> str:
        """Its command of a study but for results, seed and output, quoted for the shell."""
        words = [self.kind] if self.kind == "findings" else [self.kind, self.base]
        outcome = [] if self.outcome == ACCURACY else ["--outcome", self.outcome]
        return shlex.join([*words, *outcome, *chain.from_iterable(self._words(study))])

    def values(self, study: Study) -> dict[str, Any]:
        """A study's values of its options, by name: its command is given them, and `verify` compares it with them."""
        values = values_of(study, self.outcome) | {
            "shots": self.shots(study),
            "models": list(map(str, study.compared_models)),
        }
        if self.stem.endswith("tables/outcomes-seed{seed}"):
            # Also those that the study is not judged by.
            values |= {"outcomes": [str(JudgedOutcome(name, study.margin_of(name))) for name in OUTCOMES]}
        if "products" in self.options:
            values |= {"products": _compared_entries(study) if self.compares else _entries(study)}
        if self.arguments.get("component") == "ffns":
            own = {"controls": study.pruning.of_ffns, "custom_ffns": study.custom_ffns}
            values |= {**own, "custom_heads": [], "iterative": False}
        if self.arguments.get("component") == "heads":
            own = {"controls": study.head_controls, "custom_heads": study.custom_heads}
            values |= {**own, "custom_ffns": []}
        return {name: values[name] for name in self.options}

    def _words(self, study: Study) -> Iterator[list[str]]:
        for name, value in self.values(study).items():
            option = f"--{name.replace('_', '-')}"
            if value is True:
                yield [option]
            elif value not in (False, []):
                yield [option, *map(str, value if isinstance(value, list) else [value])]


def values_of(study: Study, outcome: Outcome = ACCURACY) -> dict[str, Any]:
    """A study's values of the options that products have, by name."""
    common = study.common_controls
    return {
        "tasks": study.tasks,
        "shots": study.shots,
        "seeds": sorted(study.seeds),
        "controls": common,
        "custom_heads": [*(name for name in study.head_controls if name not in common), *study.custom_heads],
        "custom_ffns": [*(name for name in study.pruning.of_ffns if name not in common), *study.custom_ffns],
        "experts": study.experts.rankings,
        # A study shows all that it has pruned.
        "only": [],
        "transfer": study.transfer_tasks,
        "unseen": study.unseen,
        "ablated": study.ablated_tasks,
        "correlation": study.correlation,
        "margin": study.margin_of(outcome),
        "outcomes": list(map(str, study.judged_outcomes)),
        "sample": study.sample,
        "joint": study.joint.has_grid,
        "iterative": study.pruning.is_iterative,
        "selection_bias": study.ffn.selection_bias,
        "without_induction": not study.has_induction,
        **study.figures.model_dump(),
    }


_MATRIX = ("tasks", "shots")
LAYOUT = ("width", "title")
"""Options of all figures."""
_RANKINGS = ("controls", "custom_heads", "custom_ffns")
_EVALUATED = (*_MATRIX, *_RANKINGS, "transfer", "unseen")


def _laid_out(product: Product) -> Product:
    """A figure with the options of its layout; any other product as it is."""
    if product.kind != "figure":
        return product
    scales = {"fig03": "importance_scale", "fig12": "importance_scale", "fig11": "capacity_scale"}
    scale = (scales | {"fig18": "capacity_scale"}).get(product.caption)
    return replace(product, options=(*product.options, *LAYOUT, *([scale] if scale else ())))


def _figure(
    number: str, what: str, section: str, label: str, module: str, reads: Paths, seed: bool = True, **more: Any
) -> Product:
    """A figure of the paper; its number has two digits, since the report sorts by text."""
    name = f"fig{number}"
    stem = f"{{model}}/figures/{name}_{what}" + ("-seed{seed}" if seed else "")
    more = {"options": _MATRIX, "shots": _shots_of(name), **more}
    label, function = f"Figure {number}: {label}", f"report.figures.{module}:draw"
    return Product("figure", name, stem, section, label, module, function, reads, **more)


def _table(name: str, section: str, label: str, reads: Paths, title: str, seed: bool = True, **more: Any) -> Product:
    stem = f"{{model}}/tables/{name}" + ("-seed{seed}" if seed else "")
    function = f"report.tables.{name}:{'write_table' if more.get('artifact') else 'write'}"
    return Product("table", name, stem, section, label, name, function, reads, title=title, **more)


def _beside_index(study: Study) -> list[Product]:
    """Products of one model that its first page leads to."""
    return [
        product for product in PRODUCTS if product.name != "index" and not product.compares and product.is_of(study)
    ]


def _led_to(study: Study) -> list[str]:
    """Files that a model's first page is made from."""
    return [
        f"{stem}.{suffix}"
        for product in _beside_index(study)
        for stem in expand(product.stem, seed=study.seeds)
        for suffix in product.suffixes
    ]


def _entries(study: Study) -> list[str]:
    """The same as the page's command is given them: path without suffix below the model's folder, and label."""
    entries = []
    for product in _beside_index(study):
        is_by_seed = "{seed}" in product.stem
        for seed in study.seeds if is_by_seed else study.seeds[:1]:
            stem = fill(product.stem, seed=seed).removeprefix("{model}/")
            which = f", seed {seed}" if is_by_seed and len(study.seeds) > 1 else ""
            entries.append(f"{stem}={product.label}{which}")
    return entries


def _of_comparison(study: Study) -> dict[str, str]:
    """Files that the page which compares models is made from, each with its label; pictures of figures as PNG."""
    figures, models, *others = named("figure"), *COMPARISONS
    artifacts = [row for row in (models, *others) if row.is_of(study)]
    drawn = [figure for row in others if (figure := figures[f"compare_{row.name}"]).is_of(study)]
    files = {}
    for product in (*artifacts, *drawn):
        for seed in study.seeds if "{seed}" in product.stem else study.seeds[:1]:
            which = f", seed {seed}" if "{seed}" in product.stem and len(study.seeds) > 1 else ""
            suffix = "png" if product.kind == "figure" else product.suffixes[-1]
            files[f"{fill(product.stem, seed=seed)}.{suffix}"] = f"{product.label[0].upper()}{product.label[1:]}{which}"
    return files


def _compared_entries(study: Study) -> list[str]:
    """The same as the page's command is given them: path without suffix below the folder of comparisons, and label."""
    entries = _of_comparison(study).items()
    return [f"{path.partition('/')[2].rpartition('.')[0]}={label}" for path, label in entries]


def _comparison(what: str, label: str, *options: str, seed: bool = True, **more: Any) -> Product:
    name, stem = f"compare_{what}", f"comparison/figures/{what}" + ("-seed{seed}" if seed else "")
    read = [lambda study: ARTIFACTS["compared_models"].paths(study), _read(f"compared_{what}")]
    more = {"options": ("models", *options), "lists": ("models",), "has": ARTIFACTS[f"compared_{what}"].has, **more}
    function = f"report.figures.{name}:draw"
    return Product("figure", name, stem, "", f"Comparison: {label}", name, function, _together(*read), **more)


def _compared(what: str, label: str, reads: Paths, *options: str, **more: Any) -> Product:
    artifact, step = f"compared_{what}", f"compare_{what}"
    stem = ARTIFACTS[artifact].template.removesuffix(".parquet")
    lists = ("models", *(_MATRIX if options else ()))
    more = {"options": ("models", *options), "lists": lists, "has": ARTIFACTS[artifact].has, **more}
    return Product("compare", what, stem, "", label, "", f"steps.{step}:{step}", reads, **more)


def _has_transfer(study: Study) -> bool:
    return bool(study.transfer_tasks or study.unseen)


_CURVES: dict[str, Any] = {
    "section": "pruned evaluation",
    "module": "fig05",
    "options": (*_MATRIX, *_RANKINGS, "iterative"),
}
_SRCC: dict[str, Any] = {"section": "correlation", "label": "correlation between tasks", "module": "fig08"}
_SRCC |= {"options": (*_MATRIX, "correlation")}
_TRANSFER: dict[str, Any] = {
    "section": "pruned evaluation",
    "label": "other tasks' rankings",
    "module": "fig09",
    "has": _has_transfer,
}
_TRANSFER |= {"options": (*_MATRIX, "transfer", "unseen", "correlation"), "lists": ("tasks", "unseen")}
_BY_TASK: dict[str, Any] = {
    "section": "head importance",
    "label": "head importance by task",
    "module": "fig12",
    "lists": ("tasks",),
}
_INDUCED: dict[str, Any] = {"has": ARTIFACTS["prefix_matching"].has}
_LEFT: dict[str, Any] = {"section": "induction capacity", "module": "fig18", **_INDUCED}
_COMPARES: dict[str, Any] = {
    "options": (*_MATRIX, *_RANKINGS, "experts", "margin", "iterative", "only"),
    "has": lambda study: study.compares_rankings or bool(study.expert_tasks),
}
_HAS_ABLATION: dict[str, Any] = {"lists": (*_MATRIX, "unseen"), "has": lambda study: bool(study.ablated_tasks)}


def _by_outcome(*products: Product) -> Iterator[Product]:
    """Products that show evaluations, judged by each outcome; those of accuracy have the plain names."""
    for product in products:
        yield product
        for outcome in OUTCOMES:
            if outcome != ACCURACY:
                yield replace(
                    product,
                    name=f"{product.name}_{outcome}",
                    stem=re.sub(r"(-seed\{seed\})?$", rf"-{outcome}\1", product.stem, count=1),
                    label=_label_of(product.label, outcome.replace("_", " ")),
                    has=partial(_has_outcome, product.has, outcome),
                    title="",
                    outcome=outcome,
                )


def _label_of(label: str, outcome: str) -> str:
    return label.replace(ACCURACY, outcome) if ACCURACY in label else f"{label}, by {outcome}"


def _has_outcome(has: Callable[[Study], bool], outcome: Outcome, study: Study) -> bool:
    return outcome in study.judged and has(study)


_TRUE_RISES = _together(_read("oracle_agreement"), _ORACLES)
_CRITERIA = _together(_read("head_importance", task=_tasks), _read("prefix_matching"), _TRUE_RISES)
_COMPARED = _together(
    _prompts("tasks"), _curves("heads", "own", "controls", "iterative"), _ALL_FFNS, _FFNS, _ALL_EXPERTS
)


PRODUCTS: tuple[Product, ...] = tuple(map(_laid_out, (
    _figure("03", "head_importance", "head importance", "aggregate head importance", "fig03", _AGGREGATE_SCORES),
    *_by_outcome(
        _figure("04", "ffn_importance", "FFN importance", "FFN importance", "fig04", _FFNS),
        _figure("05", "heads_pruned", label="accuracy with heads pruned",
            reads=_together(_prompts("tasks"), _curves("heads", "own", "controls", "iterative")),
            arguments={"component": "heads"}, **_CURVES),
    _figure("06", "ffns_pruned", label="accuracy with FFNs pruned", reads=_together(_prompts("tasks"), _ALL_FFNS),
            arguments={"component": "ffns"}, **_CURVES),
    _figure("07", "joint", "pruned evaluation", "accuracy with heads and FFNs pruned", "fig07", _JOINT,
            has=lambda study: study.joint.has_grid),
    ),
    *(_figure(number, "task_correlation", reads=_read("cross_task", shot=_shots_of(f"fig{number}")), **_SRCC)
      for number in ("08", "15")),
    *_by_outcome(
        *(_figure(number, "transfer", reads=_with_chance(f"fig{number}"), **_TRANSFER) for number in ("09", "16", "17"))
    ),
    _figure("10", "induction", "induction", "induction heads", "fig10", _INDUCTION, seed=False, options=(), lists=(),
            **_INDUCED),
    _figure("11", "capacity", "induction capacity", "induction capacity retained", "fig11", _CAPACITY, **_INDUCED),
    *(_figure(number, "task_importance", **_BY_TASK,
              reads=_read("head_importance", task=_tasks, shot=_shots_of(f"fig{number}")))
      for number in ("12", "13", "14")),
    *(_figure(number, f"{score}_capacity", label=f"{score} capacity by task", reads=_CAPACITY,
              arguments={"score": score}, **_LEFT)
      for number, score in (("18", "prefix_matching"), ("19", "copying"))),
    *(Product("figure", f"oracle_{component}", f"{{model}}/figures/oracle_{component}-seed{{seed}}", "correlation",
              f"Scores against oracle: {named}", "oracle", "report.figures.oracle:draw",
              _together(_read("oracle_agreement"), _ORACLES), _MATRIX, arguments={"component": component}, has=has,
              title=f"scores of {named} compared with the oracle, as a figure")
      for component, named, has in (("ffns", "FFNs", lambda study: True),
                                    ("heads", "heads", lambda study: bool(study.oracle_tasks)))),
    *_by_outcome(Product("figure", "induction_ablation", "{model}/figures/induction_ablation-seed{seed}", "induction",
            "Figure: without induction heads", "induction_ablation", "report.figures.induction_ablation:draw",
            _ABLATION, (*_MATRIX, "ablated"), title="accuracy without induction heads, as a figure", **_HAS_ABLATION)),
    *_by_outcome(Product("figure", "experts_pruned", "{model}/figures/experts_pruned-seed{seed}", "pruned evaluation",
            "accuracy with experts pruned", "experts_pruned", "report.figures.fig05:draw",
            _together(_prompts("tasks"), _ALL_EXPERTS), (*_MATRIX, "experts"), arguments={"component": "experts"},
            has=lambda study: bool(study.expert_tasks),
            title="with `experts.levels`: accuracy with the least important experts pruned")),
    *_by_outcome(Product("figure", "prunable_share", "{model}/figures/prunable_share-seed{seed}", "pruned evaluation",
            "Prunable share by criterion", "prunable_share", "report.figures.prunable_share:draw", _COMPARED,
            title="how much each criterion lets one prune, as a figure", **_COMPARES)),
    Product("figure", "criteria_agreement", "{model}/figures/criteria_agreement-seed{seed}", "head importance",
            "Why criteria differ", "criteria_agreement", "report.figures.criteria_agreement:draw",
            _CRITERIA, (*_MATRIX, "without_induction"),
            title="rank correlations between criteria, and estimates against the true rise of the loss, as a figure"),
    _comparison("prunable", "what can be pruned", *_MATRIX),
    _comparison("rankings", "rankings of heads", *_MATRIX, "correlation"),
    _comparison("induction", "induction scores", seed=False),
    _comparison("profiles", "importance by depth", *_MATRIX),
    # Of all seeds: the number that a study is run for has one place.
    *_by_outcome(
    _table("headroom", "what can be pruned", "How much can be pruned",
           _each("seed", _prompts("tasks"), _OWN_HEADS, _AGGREGATE_HEADS, _OWN_FFNS, _FFNS, _JOINT),
           "how much can be pruned within the margin: test result, point estimate and upper bound, per seed, per task, "
           "on average, and jointly", seed=False, options=(*_MATRIX, "seeds", "margin", "joint"),
           lists=(*_MATRIX, "seeds")),
    _table("losses", "pruned evaluation", "Accuracies and losses",
           _together(_ALL_HEADS, _ALL_FFNS, _JOINT, _transfer("losses")),
           "every accuracy and loss with its 95% interval, and McNemar's test",
           options=(*_EVALUATED, "joint", "iterative"), lists=(*_MATRIX, "unseen")),
    _table("criteria", "pruned evaluation", "How much each criterion lets one prune",
           _COMPARED,
           "how much each ranking lets one prune, with its interval, and what it loses beside the own ranking, "
           "questions paired", **_COMPARES),
    _table("gains", "pruned evaluation", "Gains over random order",
           _together(_curves("heads", "own", "controls", AGGREGATE), _ALL_FFNS),
           "with a random order in `pruning.controls`: what each ranking gains over it, with intervals",
           options=(*_MATRIX, *_RANKINGS), has=lambda study: study.has_random_order),
    _table("ablation_kinds", "pruned evaluation", "Table: kinds of ablation",
           _together(_curves("heads", "own", *ABLATED_OWN), _curves("ffns", "own", *ABLATED_OWN)),
           "with `own_zero`, `own_mean` or `own_resample` in `pruning.controls`: what is lost by what removed heads "
           "and FFNs give, with paired intervals", options=(*_MATRIX, *_RANKINGS),
           has=lambda study: any(name in ABLATED_OWN for _, name in study.pruning.named)),
    _table("selection_bias", "FFN importance", "Table: selection bias of FFN rankings",
           _together(_OTHER_FFNS, _FFNS, _OWN_FFNS),
           "with `ffn.selection_bias`: what FFN curves gain from being measured on the documents that ranked the FFNs",
           options=_MATRIX, has=lambda study: study.ffn.selection_bias),
    _table("induction_ablation", "induction", "Table: without induction heads", _ABLATION,
           "with `induction.ablate.percents`: accuracy and few-shot gain without induction heads",
           options=(*_MATRIX, "ablated"), **_HAS_ABLATION),
    ),
    _table("criteria_agreement", "head importance", "How criteria agree", _CRITERIA,
           "how far criteria rank heads and FFNs alike, and where they differ",
           options=(*_MATRIX, "without_induction")),
    _table("linearity", "correlation", "Where first-order estimates hold", _TRUE_RISES,
           "first-order estimates of the rise of the loss against the rise itself, in parts", options=_MATRIX),
    _table("oracle", "correlation", "Scores against oracle: table", _read("oracle_agreement"),
           "scores compared with the oracles of FFNs and heads", artifact="oracle_agreement", lists=()),
    _table("outcomes", "pruned evaluation", "How sharp outcomes are", _together(_OWN_HEADS, _OWN_FFNS),
           "how sharp each outcome is on the same questions: effective sample size relative to accuracy, power, and "
           "how many more questions a test would need", options=(*_MATRIX, "outcomes")),
    _table("reference", "findings", "The paper's numbers beside these",
           _together(_prompts("tasks"), _OWN_HEADS, _OWN_FFNS, _JOINT, _FFNS, _read("cross_task"), _read("cross_shot"),
                     _INDUCTION),
           "the numbers that the paper prints, beside this study's, and which are comparable",
           options=(*_MATRIX, "margin", "joint", "without_induction")),
    _table("table1", "correlation", "Table 1: correlation between shots", _read("cross_shot"),
           "Table 1: correlation between shots, mean and variance over tasks", artifact="cross_shot", lists=(),
           has=ARTIFACTS["cross_shot"].has),
    _table("seeds", "few-shot seeds", "Variance due to few-shot seeds",
           _each("seed", _ALL_SCORES, _OWN_HEADS),
           "of two or more few-shot seeds: how accuracy and head rankings vary with the seed", seed=False,
           options=(*_MATRIX, "seeds", "sample"), lists=(*_MATRIX, "seeds"), has=ARTIFACTS["seed_scores"].has),
    Product("page", "explorer", "{model}/explorer", "pages", "Explorer of heads and FFNs", "explorer",
            "report.explorer:write",
            _together(_each("seed", _ALL_SCORES, _read("ffn_gradient", task=_tasks), _FFNS, _ALL_HEADS, _ALL_FFNS,
                            _read("expert_importance"), _ALL_EXPERTS),
                      _INDUCTION),
            (*_MATRIX, "seeds", *_RANKINGS, "experts", "outcomes", "iterative", "without_induction"),
            (*_MATRIX, "seeds"),
            title="a page on which heads and FFNs can be pointed at: scores, ranks and what pruning costs"),
    Product("page", "index", "{model}/index", "pages", "First page", "index", "report.index:write", _led_to,
            ("products",), (*_MATRIX, "seeds", "unseen"),
            title="the first page: the answer in short, figures, tables to sort and filter, and links to all results"),
    Product("page", "comparison", "comparison/index", "", "Comparison: all on one page", "comparison",
            "report.comparison:write", lambda study: list(_of_comparison(study)), ("models", "products"),
            ("models", "seeds"), has=ARTIFACTS["compared_models"].has,
            title="of two or more models: a page with their verdicts side by side, their prunable shares on one axis, "
            "and the comparisons' tables to sort and filter"),
    Product("findings", "findings", "{model}/findings/seed{seed}", "findings", "Findings in words", "findings",
            "report.findings.page:write",
            _together(_prompts("all_tasks"), _ALL_HEADS, _ALL_FFNS, _JOINT, _transfer("findings"), _FFNS,
                      _read("cross_task"), _read("oracle_agreement"), _read("cross_shot"), _INDUCTION, _CAPACITY,
                      _ABLATION, _OTHER_FFNS),
            (*_EVALUATED, "outcomes", "joint", "iterative", "ablated", "selection_bias", "without_induction"),
            (*_MATRIX, "unseen"), title="the findings in words"),
)))  # fmt: skip
"""All figures and pages that a study may have."""


COMPARISONS = (
    _compared("models", "the models", lambda study: []),
    _compared("prunable", "how much of the models can be pruned",
              _each("model", _OWN_HEADS, _OWN_FFNS, _FFNS, _prompts("all_tasks")), *_MATRIX, "outcomes"),
    _compared("rankings", "the rankings of the models' heads", _each("model", _ALL_SCORES), *_MATRIX),
    _compared("profiles", "importance by depth of the models", _each("model", _AGGREGATE_SCORES, _FFNS), *_MATRIX),
    _compared("induction", "the induction scores of the models", _each("model", _INDUCTION)),
)  # fmt: skip
"""Artifacts that compare models, which have commands and rules like products."""


def targets(study: Study) -> dict[str, list[str]]:
    """The workflow's targets, each with the paths of the products that it asks for below the results folder."""
    targets: dict[str, list[str]] = {}
    for product in PRODUCTS:
        targets.setdefault(product.target, []).extend(product.paths(study))
    return targets


def comparison_targets(study: Study) -> dict[str, list[str]]:
    """A target per comparison: its artifact, its figure, and what the models are."""
    models, *others = COMPARISONS
    figures = named("figure")
    return {
        f"comparison_{row.name}": [
            *models.paths(study),
            *row.paths(study),
            *figures[f"compare_{row.name}"].paths(study),
        ]
        for row in others
        if row.is_of(study)
    }


def named(kind: str) -> dict[str, Product]:
    """Products of a kind by name."""
    return {product.name: product for product in PRODUCTS if product.kind == kind}


def captions(products: Sequence[str], model: str) -> dict[str, str]:
    """Captions of the figures among a page's products, by their paths without suffix below the page's folder.

    Args:
        products: entries of the page, as its command takes them.
        model: whose results they are.

    Raises:
        HeadroomError: the table has no such figure.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, autoescape=False)
    texts = {}
    for stem in (entry.partition("=")[0] for entry in products):
        if not stem.startswith("figures/"):
            continue
        product = next((known for known in named("figure").values() if known.is_at(stem)), None)
        if product is None:
            raise HeadroomError(f"--products {stem}: no figure of docs/artifacts.md lies there")
        template = environment.from_string((_CAPTIONS / f"{product.caption}.rst").read_text(encoding="utf-8"))
        shown = {"params": SimpleNamespace(**product.caption_facts), "wildcards": SimpleNamespace(model=model)}
        texts[stem] = template.render(snakemake=SimpleNamespace(**shown))
    return texts


@cache
def _digest_of_captions() -> str:
    return sha256(b"".join(path.read_bytes() for path in sorted(_CAPTIONS.glob("*.rst")))).hexdigest()[:16]


def of_study(study: Study) -> list[Product]:
    """Products that a study has."""
    return [product for product in PRODUCTS if product.is_of(study)]
