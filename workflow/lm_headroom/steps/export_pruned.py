"""Step: a smaller checkpoint without the heads, FFNs and experts that rankings put first."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_headroom.analysis.ranking import check_removable, count_at, even_count, even_ranking, even_rounds
from lm_headroom.artifacts.catalogue import MANIFEST, PRUNED
from lm_headroom.artifacts.code_digest import PACKAGE_ROOT
from lm_headroom.artifacts.ordered import Ranking, read_any_ranking
from lm_headroom.artifacts.provenance import build_provenance, model_provenance
from lm_headroom.artifacts.pruned_checkpoint import KIND, check_target, digests
from lm_headroom.artifacts.seal import sealed
from lm_headroom.artifacts.store import ArtifactFile, Source, identify, place_of, write_json
from lm_headroom.errors import HeadroomError
from lm_headroom.models.location import REMOTE_CODE, checkpoint_folder
from lm_headroom.options import EvaluationSettings, OutFolder, Percents, recorded_options
from lm_headroom.study.choices import AblationKind
from lm_headroom.study.ranking_names import AGGREGATE
from lm_headroom.tasks.prompt_set import PromptSet, read_prompts

if TYPE_CHECKING:
    from lm_headroom.engine.loading import LoadedModel
    from lm_headroom.pruned.export import Pruned
    from lm_headroom.pruned.forms import Form

_KEPT = ("step", "code", "options", "definition", "definition_digest", "data")
"""What is taken over of the provenance of the files that an export comes from."""


def export_pruned(
    *,
    settings: EvaluationSettings,
    ranking: Sequence[Path],
    percent: Percents,
    even: bool = False,
    prompts: Sequence[Path] = (),
    out: OutFolder,
) -> None:
    """Write a smaller checkpoint without the least important heads, FFNs, experts, or several of these.

    Args:
        settings: how to run the masked model that the export is held against.
        ranking: ranking artifacts of heads, of FFNs and of experts, one of each at most.
        percent: percent of them to prune, a number per ranking, as many as in a curve.
        even: prune as many heads and as many experts in each layer, the least important there, and no more than that
            percent, so that transformers loads the checkpoint without lm-headroom.
        prompts: of mean ablation, prompts artifacts, whose scoring documents have the means.
        out: the checkpoint's folder: new, empty, or an older export, which is replaced once the new one has proved
            right.

    Raises:
        HeadroomError: a ranking is of another model, or there are two of a kind; the ablation cannot be exported
            (with this model) or not by these prompts; the model runs its own code; layers would keep fewer experts than
            a token is sent to; the folder may not be replaced or has no room; or the export is not the masked model.

    Example:
        lm-headroom export-pruned --model results/opt/model.json --ranking ranking.parquet --percent 30 --out smaller
    """
    from lm_headroom.engine.loading import load
    from lm_headroom.pruned.card import build_card
    from lm_headroom.pruned.export import Pruned, check_export, check_room, new_folder, record_reference, write_weights
    from lm_headroom.pruned.forms import choose_form

    options = recorded_options(export_pruned, locals())
    check_target(out)
    chosen = _by_component(ranking, percent)
    scored = _read_scored(settings.ablation, prompts, chosen)
    loaded = load(settings.model, settings.dtype, settings.device, settings.threads)
    grids = _check_rankings(chosen, loaded, even)
    chosen, first = _first(chosen, grids, even)
    pruned = Pruned(first.get("heads", ()), first.get("ffns", ()), experts=first.get("experts", ()))
    form = choose_form(loaded.skeleton, pruned.left(loaded.skeleton))
    pruned = _with_means(loaded, pruned, scored, settings)
    checkpoint, record, before = checkpoint_folder(settings.model), loaded.record, loaded.skeleton.num_parameters()
    parameters = {"before": before, "after": before - pruned.parameters(loaded.skeleton)}
    check_room(out, checkpoint, parameters["after"] / before)
    reference = record_reference(loaded, pruned)
    # The masked model is a ring of modules and methods, which nothing else lets go of.
    del loaded
    gc.collect()
    with new_folder(out) as folder:
        write_weights(checkpoint, pruned, form, folder)
        far = check_export(folder, reference, parameters["after"], form)
        model = {**model_provenance(record, settings.dtype), "parameters": parameters}
        manifest = _manifest(out, chosen, first, model, options, [each.source for each in scored])
        manifest |= {"plain": form.plain is not None, "even": even}
        (folder / "README.md").write_text(build_card(manifest), encoding="utf-8")
        write_json(folder / MANIFEST, sealed({**manifest, "files": digests(folder)}))
    print(f"{out}: {_summary(parameters, far, form)}", file=sys.stderr)


def _summary(parameters: Mapping[str, int], far: float, form: Form) -> str:
    """What became of the model, and what loads it."""
    before, after = (parameters[name] / 1e6 for name in ("before", "after"))
    return (
        f"{before:.1f} M parameters have become {after:.1f} M; logits are the masked model's to {far:.1g}; "
        + _how_to_load(form)
    )


def _how_to_load(form: Form) -> str:
    """What loads an export."""
    if form.plain:
        counts = [f"{form.plain.heads} heads", f"{form.plain.key_value_heads} key-value heads"]
        counts += [f"{form.plain.experts} experts"] if form.plain.experts else []
        return (
            f"a plain checkpoint of {', '.join(counts[:-1])} and {counts[-1]} per layer: AutoModelForCausalLM of "
            "transformers loads it"
        )
    return f"lm_headroom.load_pruned loads it, and transformers after 'import lm_headroom', since {form.why_not}"


@dataclass(frozen=True)
class _Grid:
    """Layers that have heads or experts, how many each has, and how many of a layer are pruned together."""

    layers: int
    number: int
    group: int = 1

    @property
    def total(self) -> int:
        return self.layers * self.number


def _first(chosen: Rankings, grids: Mapping[str, _Grid], even: bool) -> tuple[Rankings, dict[str, tuple[Any, ...]]]:
    """Rankings as they are pruned, and what is pruned of each: where that is ``even``, as much in each layer.

    Raises:
        HeadroomError: heads or experts are to be even, and none are pruned.
    """
    counts = {name: count_at(percent, len(ranking.order)) for name, (ranking, percent) in chosen.items()}
    in_layers = [name for name in chosen if name in grids]
    if even and not in_layers:
        raise HeadroomError("--even is of heads and experts, and --ranking names no ranking of either; leave it out")
    for name in in_layers if even else ():
        ranking, percent = chosen[name]
        rounds = replace(ranking, order=tuple(even_ranking(ranking.order, grids[name].group)))
        chosen, counts = {**chosen, name: (rounds, percent)}, {**counts, name: _even_count(name, percent, grids[name])}
    return chosen, {name: ranking.order[: counts[name]] for name, (ranking, _) in chosen.items()}


def _even_count(name: str, percent: int, grid: _Grid) -> int:
    """How many heads or experts are pruned, as many in each layer.

    Raises:
        HeadroomError: fewer than a round; says what is enough.
    """
    count = count_at(percent, grid.total)
    even = even_count(count, grid.layers, grid.number, grid.group)
    if count and not even:
        least = grid.layers * even_rounds(grid.number, grid.group)[0]
        raise HeadroomError(
            f"--even: {percent}% of {grid.total} {name} are {count}, fewer than the {least} that one round removes, as "
            f"many in each of {grid.layers} layers; give --percent {-(-100 * least // grid.total)} or more"
        )
    return even


def _read_scored(kind: AblationKind, prompts: Sequence[Path], chosen: Rankings) -> list[PromptSet]:
    """The prompts whose scoring documents have means; none where zeros take the place of what is pruned.

    Raises:
        HeadroomError: says which can be exported, and what it needs; or prompts are not of a ranking's task, shots and
            seed.
    """
    if prompts and kind != "mean":
        raise HeadroomError(
            f"--prompts names documents whose means take the place of what is pruned, and ablation {kind} takes none: "
            "leave --prompts out, or export with --ablation mean"
        )
    if not {"heads", "ffns"} & set(chosen):
        # A pruned expert has no place that something else could take.
        return []
    if kind == "resample":
        raise HeadroomError(
            "ablation resample gives other values for each document, which no checkpoint can hold; export with "
            "--ablation mean or zero"
        )
    if kind == "mean" and not prompts:
        raise HeadroomError("ablation mean needs the scoring documents: name their artifacts with --prompts")
    origins = [ranking.artifact.provenance for name, (ranking, _) in chosen.items() if name != "experts"]
    known = {key: frozenset(origin.get(key) for origin in origins) for key in ("task", "shots", "seed")}
    expected = {key: None if values & {None, AGGREGATE} else values for key, values in known.items()}
    return [read_prompts(path, **expected) for path in prompts]


def _with_means(
    loaded: LoadedModel, pruned: Pruned, prompts: Sequence[PromptSet], settings: EvaluationSettings
) -> Pruned:
    """What is pruned, with its means over these scoring documents, if there are any.

    Raises:
        HeadroomError: the model has no biases that could hold them.
    """
    from lm_headroom.engine.resume_cache import open_cache
    from lm_headroom.pruned.export import check_biases
    from lm_headroom.steps.prepare_evaluation import prepare_ablations

    if not prompts:
        return pruned
    check_biases(loaded.skeleton, pruned)
    units = open_cache(settings.cache, "scoring.knockout", loaded.record, settings.dtype)
    return replace(pruned, means=prepare_ablations(loaded, prompts, settings, units)("mean").replacements)


Rankings = dict[str, tuple[Ranking[Any], int]]
"""Component to its ranking, and the percent that is pruned."""


def _by_component(rankings: Sequence[Path], percents: Sequence[int]) -> Rankings:
    """Rankings and percents by what they rank.

    Raises:
        HeadroomError: there are not as many percents as rankings, two of a kind, or a file that is no ranking.
    """
    if len(rankings) != len(percents):
        raise HeadroomError(
            f"--ranking names {len(rankings)} files and --percent {len(percents)} numbers; give one number for each"
        )
    chosen: Rankings = {}
    for path, percent in zip(rankings, percents, strict=True):
        ranking = read_any_ranking(path)
        if ranking.component in chosen:
            raise HeadroomError(f"--ranking names two rankings of {ranking.component}; give one of each at most")
        chosen[ranking.component] = ranking, percent
    return chosen


def _check_rankings(chosen: Rankings, loaded: LoadedModel, even: bool) -> dict[str, _Grid]:
    """The grids of heads and experts, of which layers keep as many where the export is to be ``even``.

    Raises:
        HeadroomError: the model runs code of its own, a ranking is of another model, more experts are to be pruned than
            layers can lose, or layers cannot keep as many heads.
    """
    from lm_headroom.models.experts import check_prunable, expert_blocks, expert_grid

    if loaded.record.get(REMOTE_CODE):
        raise HeadroomError(
            f"model {loaded.record['name']!r} runs code of its own ({REMOTE_CODE}), which no export is written with; "
            "measure it with masks instead (lm_headroom.mask)"
        )
    shape, skeleton = loaded.shape, loaded.skeleton
    grids = {"heads": _Grid(*shape.grid, shape.group if even else 1)} if "heads" in chosen else {}
    layers: list[int] = []
    if "experts" in chosen:
        layers, number, top_k = expert_grid(skeleton)
        grids["experts"] = _Grid(len(layers), number)
    for order, percent in chosen.values():
        order.artifact.check_origin(model=loaded.record["digest"])
        order.check_fits(shape.grid, shape.layers, (layers, number) if layers else ((), 0))
        if order.component == "experts" and percent:
            check_prunable(skeleton.config.model_type, expert_blocks(skeleton).values())
            check_removable("--percent", [percent], (len(layers), number), top_k)
    return grids


def _manifest(
    out: Path,
    chosen: Rankings,
    pruned: Mapping[str, Sequence[Any]],
    model: Mapping[str, Any],
    options: Mapping[str, Any],
    prompts: Sequence[Source],
) -> dict[str, Any]:
    """The manifest: the provenance of an artifact, and what was pruned of which model.

    Args:
        out: the checkpoint's folder.
        chosen: rankings and percents.
        pruned: component to what is pruned of it.
        model: provenance of the model, and its numbers of parameters.
        options: of the command that the study decides.
        prompts: what the means are from.
    """
    place = place_of(out, PRUNED)
    counts = {
        component: {
            "percent": percent,
            "count": len(pruned[component]),
            "of": len(ranking.order),
            "ranking": ranking.artifact.source.place or ranking.artifact.path.name,
            "ranking_digest": ranking.artifact.digest,
        }
        for component, (ranking, percent) in chosen.items()
    }
    manifest = {
        "kind": KIND,
        **({"place": place} if place else {}),
        "pruned": counts,
        "made_by": _version(),
        "lineage": lineage([ranking.artifact for ranking, _ in chosen.values()]),
        **model,
    }
    options = {**options, **{f"percent_{component}": percent for component, (_, percent) in chosen.items()}}
    inputs = {component: ranking.artifact.source for component, (ranking, _) in chosen.items()}
    inputs |= {f"prompts_{number}": source for number, source in enumerate(prompts)}
    return build_provenance("steps.export_pruned", inputs, options, manifest)


def lineage(rankings: Sequence[ArtifactFile]) -> dict[str, dict[str, Any]]:
    """All files of the study that rankings come from, by their places below the results folder.

    Each with its digest and, where it still is what it was, what made it.
    """
    files: dict[str, dict[str, Any]] = {}
    # Name of a file, where it may be, its digest when it was used, and what made it where that is known.
    pending: list[tuple[str, Path | None, str, Mapping[str, Any] | None]] = [
        (artifact.source.place or artifact.path.name, artifact.path, artifact.digest, artifact.provenance)
        for artifact in rankings
    ]
    while pending:
        name, path, digest, provenance = pending.pop(0)
        if name in files:
            continue
        files[name] = {"digest": digest}
        if path is None or not path.is_file():
            continue
        if provenance is None:
            provenance, digest_now = identify(path)
            if digest_now != digest:
                continue
        sources = provenance.get("inputs", {})
        files[name] |= {key: provenance[key] for key in _KEPT if provenance.get(key)}
        files[name]["inputs"] = sorted(source["path"] or key for key, source in sources.items())
        place = place_of(path, provenance["place"]) if "place" in provenance else None
        root = path.absolute().parents[place.count("/")] if place else None
        for key, source in sorted(sources.items()):
            where = root / source["path"] if root and source["path"] else None
            pending.append((source["path"] or key, where, source["digest"], None))
    return files


def _version() -> dict[str, str | None]:
    """Version of lm-headroom, and the commit of the checkout that it runs from, if it is one."""
    try:
        number: str | None = version("lm-headroom")
    except PackageNotFoundError:
        number = None
    git = ["git", "-C", str(PACKAGE_ROOT)]
    commit = None
    try:
        # The package may lie in the environment of a project that has nothing to do with it.
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", "cli.py"], capture_output=True)
        if tracked.returncode == 0:
            command = [*git, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
            commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        pass
    return {"version": number, "commit": commit}
