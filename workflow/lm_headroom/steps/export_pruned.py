"""Step: a smaller checkpoint without the heads and FFNs that rankings put first."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lm_headroom.analysis.ranking import count_at
from lm_headroom.artifacts.catalogue import PRUNED
from lm_headroom.artifacts.code_digest import PACKAGE_ROOT
from lm_headroom.artifacts.ffns import read_ffn_ranking
from lm_headroom.artifacts.heads import read_ranking
from lm_headroom.artifacts.model_record import read_record
from lm_headroom.artifacts.provenance import build_provenance, model_provenance
from lm_headroom.artifacts.pruned_checkpoint import KIND, MANIFEST, check_target, digests
from lm_headroom.artifacts.ranking import FFN_RANKING, RANKING
from lm_headroom.artifacts.seal import sealed
from lm_headroom.artifacts.store import file_digest, place_of, provenance, write_json
from lm_headroom.engine.loading import load
from lm_headroom.errors import HeadroomError
from lm_headroom.models.location import checkpoint_folder
from lm_headroom.pruned.card import build_card
from lm_headroom.pruned.export import (
    Pruned,
    Reference,
    check_export,
    check_room,
    new_folder,
    record_reference,
    write_weights,
)
from lm_headroom.pruned.model import check_architecture
from lm_headroom.settings import Settings
from lm_headroom.steps.prepare_evaluation import check_ffns, check_heads

COMPONENTS = {RANKING.name: "heads", FFN_RANKING.name: "ffns"}
"""Kind of a ranking to what it ranks."""
_KEPT = ("step", "code", "options", "definition", "definition_digest", "data")
"""What is taken over of the provenance of the files that an export comes from."""


def run(out: Path, model: Path, rankings: Sequence[Path], percents: Sequence[int], settings: Settings) -> None:
    """Write a pruned checkpoint.

    Args:
        out: its folder: new, empty, or an older export, which is replaced once the new one has proved right.
        model: the model record.
        rankings: a ranking of heads, of FFNs, or both.
        percents: how much of each goes, in their order; the first of a ranking go, as many as in a curve.
        settings: how to run the masked model that the export is held against.

    Raises:
        HeadroomError: a ranking is of another model, or there are two of a kind; the folder may not be replaced or has
            no room; or the export is not the masked model.
    """
    check_target(out)
    record = read_record(model)
    given = _by_component(rankings, percents)
    orders: dict[str, list[Any]] = {"heads": [], "ffns": []}
    for component, (path, _) in given.items():
        reader = read_ranking if component == "heads" else read_ffn_ranking
        orders[component] = list(reader(path, model=record["digest"]))
    reference, pruned, parameters, counts = _testimony(model, given, orders, out, settings)
    # The masked model is a ring of modules and methods, which nothing else lets go of.
    gc.collect()
    with new_folder(out) as folder:
        write_weights(checkpoint_folder(model), pruned, folder)
        far = check_export(folder, reference, parameters["after"])
        place = place_of(out, PRUNED)
        facts = {
            "kind": KIND,
            **({"place": place} if place else {}),
            **model_provenance(record, settings.dtype),
            "pruned": counts,
            "parameters": parameters,
            "made_by": _headroom(),
            "lineage": lineage([path for path, _ in given.values()]),
        }
        options = {f"percent_{component}": percent for component, (_, percent) in given.items()}
        facts = build_provenance("steps.export_pruned", {c: path for c, (path, _) in given.items()}, options, facts)
        (folder / "README.md").write_text(build_card(facts), encoding="utf-8")
        write_json(folder / MANIFEST, sealed({**facts, "files": digests(folder)}))
    before, after = (parameters[name] / 1e6 for name in ("before", "after"))
    print(
        f"{out}: {before:.1f} M parameters have become {after:.1f} M; logits are the masked model's to {far:.1g}",
        file=sys.stderr,
    )


def _by_component(rankings: Sequence[Path], percents: Sequence[int]) -> dict[str, tuple[Path, int]]:
    """Rankings and percents by what they rank.

    Raises:
        HeadroomError: there are not as many percents as rankings, two of a kind, or a file that is no ranking.
    """
    if len(rankings) != len(percents):
        raise HeadroomError(
            f"--ranking names {len(rankings)} files and --percent {len(percents)} numbers; give one number for each"
        )
    found: dict[str, tuple[Path, int]] = {}
    for path, percent in zip(rankings, percents, strict=True):
        kind = provenance(path).get("kind")
        if kind not in COMPONENTS:
            raise HeadroomError(f"{path}: expected a ranking of heads or FFNs, found {kind!r}")
        if COMPONENTS[kind] in found:
            raise HeadroomError(f"--ranking names two rankings of {COMPONENTS[kind]}; give one of each at most")
        found[COMPONENTS[kind]] = (path, percent)
    return found


def _testimony(
    model: Path, given: dict[str, tuple[Path, int]], orders: dict[str, list[Any]], out: Path, settings: Settings
) -> tuple[Reference, Pruned, dict[str, int], dict[str, dict[str, Any]]]:
    """What the masked model says, what is pruned, parameters, and what the manifest says of both; the model is let go.

    Raises:
        HeadroomError: the model cannot be exported, a ranking does not fit it, or the disk has no room.
    """
    loaded = load(model, settings.dtype, settings.device, settings.threads)
    check_architecture(loaded.skeleton)
    gone: dict[str, list[Any]] = {"heads": [], "ffns": []}
    counts = {}
    for component, (path, percent) in given.items():
        (check_heads if component == "heads" else check_ffns)(path, orders[component], loaded)
        gone[component] = orders[component][: count_at(percent, len(orders[component]))]
        counts[component] = {
            "percent": percent,
            "count": len(gone[component]),
            "of": len(orders[component]),
            "ranking": provenance(path).get("place") or path.name,
            "ranking_digest": file_digest(path),
        }
    pruned = Pruned(tuple(gone["heads"]), tuple(gone["ffns"]))
    before = loaded.skeleton.num_parameters()
    parameters = {"before": before, "after": before - pruned.parameters(loaded.skeleton)}
    weights = sum(path.stat().st_size for path in checkpoint_folder(model).iterdir() if path.suffix in _WEIGHTS)
    check_room(out, int(weights * parameters["after"] / before))
    return record_reference(loaded, pruned), pruned, parameters, counts


_WEIGHTS = (".safetensors", ".bin")


def lineage(rankings: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """All files of the study that rankings come from, by their places below the results folder.

    Each with its digest and, where it still is what it was, what made it.
    """
    found: dict[str, dict[str, Any]] = {}
    pending: list[tuple[str, Path | None, str]] = [
        (provenance(path).get("place") or path.name, path, file_digest(path)) for path in rankings
    ]
    while pending:
        name, path, digest = pending.pop(0)
        if name in found:
            continue
        found[name] = {"digest": digest}
        if path is None or not path.is_file() or file_digest(path) != digest:
            continue
        facts = provenance(path)
        sources = facts.get("inputs", {})
        found[name] |= {key: facts[key] for key in _KEPT if facts.get(key)}
        found[name]["inputs"] = sorted(source["path"] or key for key, source in sources.items())
        place = place_of(path, facts["place"]) if "place" in facts else None
        root = path.absolute().parents[place.count("/")] if place else None
        for key, source in sorted(sources.items()):
            where = root / source["path"] if root and source["path"] else None
            pending.append((source["path"] or key, where, source["digest"]))
    return found


def _headroom() -> dict[str, str | None]:
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
