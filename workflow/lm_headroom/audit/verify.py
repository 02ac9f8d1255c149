"""``lm-headroom verify``: whether results are what they say, and still belong together.

Each file is read once: its schema, what made it (by the code installed now, from the files that now lie where its
inputs lay, of the model whose record is there), and, given a study, whether it was made with that study's options.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.content import Digests
from lm_headroom.artifacts.entries import entries
from lm_headroom.artifacts.file_provenance import read_provenance
from lm_headroom.artifacts.json_object import read_text
from lm_headroom.artifacts.model_record import NAME as RECORD
from lm_headroom.artifacts.model_record import TAKEN_FROM, read_unedited_record
from lm_headroom.artifacts.provenance import FOLDERS, code_now
from lm_headroom.artifacts.pruned_checkpoint import export_of, read_file_provenance, read_manifest
from lm_headroom.artifacts.schemas import SCHEMAS
from lm_headroom.artifacts.store import ArtifactError, UnrecognisedError, file_digest, made_by, place_of, read
from lm_headroom.errors import HeadroomError
from lm_headroom.models.location import checkpoint_folder
from lm_headroom.options import command_of, study_keys
from lm_headroom.report.products import COMPARISONS, PRODUCTS, Product
from lm_headroom.study.choices import ACCURACY
from lm_headroom.study.config import Study
from lm_headroom.study.lists import FOLDER as LISTS
from lm_headroom.study.lists import LISTED
from lm_headroom.study.ranking_names import AGGREGATE
from lm_headroom.tasks.data import EMBEDDED_FOLDER, RECORDS, mirror_records, own_records
from lm_headroom.tasks.digest import task_digest
from lm_headroom.tasks.files import TASK_FOLDERS
from lm_headroom.tasks.own import own_file_records
from lm_headroom.tasks.sources import HUB, OWN, TaskSources

STATES = {
    "damaged": "unreadable, or not of the schema of its place",
    "unrecognised": "not written by lm-headroom, or written for another path or model",
    "missing inputs": "the files that it was made from are gone",
    "stale": "made from what is no longer there, by other code or with other options",
    "sound": "",
}
"""States of a file, worst first, and what they mean."""
UNJUDGED = "report.html"
"""Snakemake's report, which holds copies of figures and pages: only making it again tells whether it is right."""
CARD = "README.md"
"""The page of results that come from the hub, which describes them and is no result."""
_LISTED = {path: name for name, path in LISTED.items()}
_PAGES = {f"{Path(product.stem).name}.html" for product in PRODUCTS if product.kind == "page"}
_DRAWN = {".pdf", ".svg", ".png", ".html", ".md", ".csv"}


@dataclass
class File:
    """A file of a results folder.

    Attributes:
        path: below the results folder.
        provenance: what made it; empty for model records and what cannot be read.
        record: its content, if it is a model's record.
        listed: its lines, if it is a list of the study.
        problems: state to the reasons for it.
    """

    path: str
    provenance: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    listed: list[str] | None = None
    problems: dict[str, list[str]] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """The worst that was found."""
        return next((state for state in STATES if state in self.problems), "sound")

    @property
    def reasons(self) -> list[str]:
        """Why it is not sound, worst first."""
        return [reason for state in STATES for reason in self.problems.get(state, ())]

    def flag(self, state: str, reason: str) -> None:
        """Note something that is wrong with it."""
        self.problems.setdefault(state, []).append(reason)


def verify(results: Path, study: Study | None = None) -> list[File]:
    """Judge all files of a results folder; hidden ones are nobody's results.

    Args:
        results: the folder that holds ``prompts`` and a folder per model.
        study: the study; None judges files by themselves and each other.

    Raises:
        HeadroomError: it is no results folder.
    """
    if not results.is_dir():
        raise HeadroomError(f"{results}: no such folder")
    if (results / RECORD).is_file():
        raise HeadroomError(f"{results}: this is one model's folder; name the results folder that holds it")
    listed = sorted(
        (entry for entry in entries(results) if entry.path not in (UNJUDGED, CARD)), key=lambda entry: entry.path
    )
    files = {entry.path: File(entry.path) for entry in listed}
    for entry in listed:
        if entry.problem:
            files[entry.path].flag("damaged", entry.problem)
        else:
            _attempt(files[entry.path], _read, results)
    if all(path.startswith(f"{LISTS}/") for path in files):
        raise HeadroomError(f"{results}: no results here; expected prompts/ and a folder per model")
    records = {name.split("/")[0]: file.record for name, file in files.items() if file.record}

    @cache
    def digest(path: str) -> str:
        return file_digest(results / path)

    digests = Digests()
    for file in files.values():
        if file.provenance:
            _attempt(file, _check_whole)
            _attempt(file, _check_place)
            _attempt(file, _check_model, records)
            _attempt(file, _check_compared, records)
            _attempt(file, _check_inputs, files, digest)
            _attempt(file, _check_code)
            _attempt(file, _check_definition, results, study)
            _attempt(file, _check_records, results, study, digests)
            _attempt(file, _check_custom, results, study)
            _attempt(file, _check_study, results, study, digests)
        elif file.record:
            _attempt(file, _check_checkpoint, results)
        elif file.listed is not None:
            _check_list(file, files.values(), study)
    _pass_on(files)
    return list(files.values())


def _attempt(file: File, check: Callable[..., None], *arguments: Any) -> None:
    """Make a check; whatever a damaged file provokes there is this file's fault alone."""
    try:
        check(file, *arguments)
    except Exception as error:
        file.flag("damaged", f"it cannot be judged ({type(error).__name__}: {error})")


def made_otherwise(
    results: Path, paths: Iterable[Path], study: Study, digests: Digests
) -> Iterator[tuple[str, list[str]]]:
    """Files of a study that were made with other options or by other code, by what they say alone, and why.

    Args:
        results: the results folder.
        paths: files in it, and folders of pruned checkpoints; those that do not say what made them are left to
            :func:`verify` and to who reads them.
        study: the study.
        digests: of its records, as far as they are known.
    """
    for path in paths:
        file = File(path.relative_to(results).as_posix())
        with suppress(HeadroomError, TypeError, KeyError, AttributeError, ValueError):
            file.provenance = read_manifest(path) if path.is_dir() else read_provenance(path)
            if _belongs(file, study):
                _check_code(file)
                _check_definition(file, results, study)
                _check_records(file, results, study, digests)
                _check_study(file, results, study, digests)
                if file.provenance.get("ranking") in study.rankings:
                    _check_custom(file, results, study)
        if file.problems:
            yield str(path), file.reasons


def _read(file: File, results: Path) -> None:
    """Read a file as what its place says it is."""
    name, path = file.path, results / file.path
    # Of as many folders: to compare a path with a pattern takes longer than to count.
    near = (kind for kind in SCHEMAS if kind.place.count("/") == name.count("/"))
    kind = next((kind for kind in near if place_of(path, kind.place) == name), None)
    parts = name.split("/")
    in_folder = len(parts) == 3 and parts[1] in FOLDERS.values() and path.suffix in _DRAWN
    drawn = in_folder or (len(parts) == 2 and parts[1] in _PAGES)
    try:
        if kind:
            file.provenance = made_by(read(path, kind))
        elif drawn:
            file.provenance = read_provenance(path)
        elif export := export_of(results, name):
            file.provenance = read_file_provenance(path, export)
        elif name.count("/") == 1 and path.name == RECORD:
            file.record = read_unedited_record(path)
            if file.record["name"] != path.parent.name:
                file.flag("unrecognised", f"it is the record of model {file.record['name']!r}")
        elif name in _LISTED:
            file.listed = _read_list(path)
        else:
            file.flag("unrecognised", "lm-headroom writes no file at this path")
    except UnrecognisedError as error:
        file.flag("unrecognised", _without_path(error, path))
    except ArtifactError as error:
        file.flag("damaged", _without_path(error, path))


def _read_list(path: Path) -> list[str]:
    """The lines of a list of the study.

    Raises:
        ArtifactError: it is none.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: it cannot be read ({error}); delete it and run the workflow again") from error
    lines = text.split("\n")
    if lines.pop() or not all(lines) or len(set(lines)) < len(lines):
        raise ArtifactError(f"{path}: expected a value per line, each once; delete it and run the workflow again")
    return lines


def _check_list(file: File, files: Iterable[File], study: Study | None) -> None:
    """Hold a list against the study; without one, some file must have been made with it, if any says with which."""
    key = _LISTED[file.path]
    if study is not None:
        wanted = [str(value) for value in getattr(study, key)]
        if file.listed != wanted:
            file.flag("stale", f"it lists {', '.join(file.listed or ())}; the study has {', '.join(wanted)}")
        return
    recorded = [(other.provenance.get("options") or {}).get(key) for other in files]
    made_with = [set(map(str, values)) for values in recorded if isinstance(values, list)]
    listed = set(file.listed or ())
    # Some figures show some numbers of shots only, and may be all that is there yet.
    if made_with and not any(values == listed or (key == "shots" and values <= listed) for values in made_with):
        file.flag("stale", f"no file here was made with {key} {', '.join(file.listed or ())}")


def _without_path(error: ArtifactError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _check_place(file: File) -> None:
    place = file.provenance.get("place")
    if place not in (file.path, str(Path(file.path).with_suffix(""))):
        file.flag("unrecognised", f"it was made for {place}" if place else "it was not made for a results folder")


def _check_whole(file: File) -> None:
    """Each file that lm-headroom writes says all of this of itself."""
    for key in ("step", "code", "inputs", "options"):
        if file.provenance.get(key) is None:
            file.flag("damaged", f"its provenance has no {key}")


def _check_model(file: File, records: Mapping[str, dict[str, Any]]) -> None:
    model = file.provenance.get("model")
    if not model:
        return
    name = file.path.split("/")[0]
    if name not in records:
        file.flag("missing inputs", f"the model's record, {name}/{RECORD}, is gone or damaged")
        return
    recorded, there = ((record.get("name"), str(record.get("digest"))) for record in (model, records[name]))
    if recorded != there:
        file.flag(
            "unrecognised",
            f"of model {recorded[0]} {recorded[1][:16]}; {name}/{RECORD} is of {there[0]} {there[1][:16]}",
        )
    for key in _differing(model, records[name]) - {"name", "digest"}:
        now = records[name].get(key)
        file.flag("stale", f"of a model whose {key} was {model.get(key)}; in {name}/{RECORD} it is {now}")


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """Keys in which two records of a model differ, apart from where its checkpoint was taken from."""
    return {key for key in {*one, *other} - {*TAKEN_FROM} if one.get(key) != other.get(key)}


def _check_compared(file: File, records: Mapping[str, dict[str, Any]]) -> None:
    for name, record in (file.provenance.get("compared") or {}).items():
        if name not in records:
            file.flag("missing inputs", f"the record of model {name}, which it compares, is gone or damaged")
        elif _differing(record, records[name]):
            file.flag("stale", f"it compares another model than {name}/{RECORD} is of")


def _check_inputs(file: File, files: Mapping[str, File], digest: Callable[[str], str]) -> None:
    for name, source in (file.provenance.get("inputs") or {}).items():
        path = source["path"]
        if path is None:
            file.flag("missing inputs", f"its input {name!r} did not lie in a results folder")
        elif path not in files:
            file.flag("missing inputs", f"made from {path}, which is gone")
        elif files[path].state != "damaged" and digest(path) != source["digest"]:
            file.flag("stale", f"made from another {path} than is there now")


def _check_code(file: File) -> None:
    step, code = file.provenance.get("step"), file.provenance.get("code")
    now = code_now(step) if step else None
    if now is None or now != code:
        file.flag("stale", f"made by other code: {step} was {code}, is {now or 'gone'}")


def _check_definition(file: File, results: Path, study: Study | None) -> None:
    definition = file.provenance.get("definition_digest")
    if definition and definition != (now := _definition_now(file.provenance, results, study)):
        file.flag("stale", f"the definition of task {file.provenance['task']} was {definition}, is {now}")


def _definition_now(provenance: Mapping[str, Any], results: Path, study: Study | None) -> str:
    """Digest of a task's definition; as recorded where it cannot be had here."""
    recorded: str = provenance["definition_digest"]
    sources = _sources(provenance, results, study)
    if sources:
        digest = sources.digest(provenance["task"])
        # Where lm-eval is not installed, nobody knows its version.
        return recorded if digest == "lm-eval" and recorded.startswith(digest) else digest
    folder = _built_in_folder(provenance)
    if recorded.startswith("lm-eval"):
        try:
            return f"lm-eval {version('lm_eval')}"
        except PackageNotFoundError:
            return recorded
    return task_digest(provenance["task"], folder) if folder.is_dir() else recorded


def _sources(provenance: Mapping[str, Any], results: Path, study: Study | None) -> TaskSources | None:
    """Where the study's tasks come from; None where it has not the task of a file."""
    has_task = study is not None and provenance.get("task") in study.all_entries
    return TaskSources(study, results.parent) if has_task else None


def _built_in_folder(provenance: Mapping[str, Any]) -> Path:
    """The folder of lm-headroom's that a definition seems to come from: one of the user's may have its name."""
    return TASK_FOLDERS / str(provenance.get("definition")).split("/")[0]


def _check_checkpoint(file: File, results: Path) -> None:
    """Hold a model's record against the checkpoint, where that is on this machine, with what it takes to read it."""
    record = results / file.path
    try:
        checkpoint_folder(record)
        # Imports torch.
        from lm_headroom.models.resolve import changes_since
    except (HeadroomError, ImportError):
        return
    wrong = changes_since(record)
    if wrong:
        file.flag("stale", wrong)


def _check_records(file: File, results: Path, study: Study | None, digests: Digests) -> None:
    """Hold the files that a task's records came from against those that are there, where they can be found."""
    recorded = file.provenance.get(RECORDS)
    if not isinstance(recorded, dict) or not recorded:
        return
    now = _records_now(file.provenance, results, study, digests)
    changed = sorted(name for name in {*recorded, *now} if recorded.get(name) != now.get(name))
    if now and changed:
        file.flag(
            "stale", f"made from other records of task {file.provenance['task']}: {', '.join(changed)} changed since"
        )


def _records_now(provenance: Mapping[str, Any], results: Path, study: Study | None, digests: Digests) -> dict[str, str]:
    """Digests of the files that a task's records come from; empty where they are not here."""
    task, data = str(provenance.get("task")), provenance.get("data") or {}
    sources = _sources(provenance, results, study)
    if data.get("source") == OWN:
        entry = study.all_entries.get(task) if study else None
        return own_file_records(entry, results.parent, digests) if entry and entry.file else {}
    if data.get("source") == HUB:
        folder = _built_in_folder(provenance)
        folders = [sources.folder(task)] if sources else [folder] if folder.is_dir() else []
        return own_records(task, folders, digests)
    now = sources.data(task) if sources else study.data if study else None
    embedded = now.source == "embedded" if now else "package" in data
    mirror = EMBEDDED_FOLDER if embedded else now.mirror_folder if now else None
    return mirror_records(results.parent / mirror / task, digests) if mirror else {}


def _check_custom(file: File, results: Path, study: Study | None) -> None:
    """Hold the user's own scores against the file that a ranking came from, beside the results folder."""
    custom = file.provenance.get("custom")
    if not isinstance(custom, dict):
        return
    path, name = results.parent / custom["file"], file.provenance["ranking"]
    if not path.is_file():
        file.flag("missing inputs", f"made from {custom['file']}, which is gone")
    elif file_digest(path) != custom["digest"]:
        file.flag("stale", f"made from another {custom['file']} than is there now")
    if study is not None and _belongs(file, study) and name in study.rankings:
        cell = {key: file.provenance[key] for key in ("task", "seed")}
        model, shots = file.provenance["model"]["name"], file.provenance["shots"]
        wanted = study.rankings[name].located(model=model, shot=shots, **cell)
        if wanted != custom["source"]:
            file.flag("stale", f"made with source {custom['source']}; the study has {wanted}")


def _check_study(file: File, results: Path, study: Study | None, digests: Digests) -> None:
    """Compare what was recorded with the study's options, if the study has this file at all."""
    if study is None or not _belongs(file, study):
        return
    recorded = {**(file.provenance.get("options") or {}), **_derived(file.provenance, results, study)}
    for option, wanted in _wanted(file, results, study).items():
        value = recorded.get(option)
        if file.provenance.get("kind") in FOLDERS and option not in _COMMON and value is None:
            # Figures and pages record what they show, and not what they do not.
            value = type(wanted)()
        elif option not in recorded:
            continue
        if option == "data" and (value, wanted) in (("embedded", "mirror"), ("mirror", "embedded")):
            # A mirror may be a copy of the embedded records.
            now = _records_now(file.provenance, results, study, digests)
            value = wanted if now and now == file.provenance.get(RECORDS) else value
        if value != wanted:
            file.flag("stale", f"made with {option} {_in_yaml(value)}; the study has {_in_yaml(wanted)}")


def _in_yaml(value: Any) -> Any:
    """A value for a message: null, such as of a limit, as studies write it."""
    return "null" if value is None else value


_COMMON = ("dtype", "tasks", "grid ranking")
"""Options that are compared whatever made the file, if it says them."""


def _belongs(file: File, study: Study) -> bool:
    """Whether the study makes this file: others, of a task that it had once, are judged by themselves."""
    provenance = file.provenance
    options = provenance.get("options") or {}
    model = file.path.split("/")[0]
    return (
        (model in ("comparison", "prompts") or model in study.models)
        and provenance.get("task", study.tasks[0]) in [*study.all_tasks, AGGREGATE]
        and provenance.get("shots", study.shots[0]) in study.shots
        and provenance.get("seed", options.get("seed", study.seeds[0])) in study.seeds
        and options.get("outcome", ACCURACY) in study.judged
    )


def _wanted(file: File, results: Path, study: Study) -> dict[str, Any]:
    """The study's values of the options that a file records, and of those derived from other records."""
    step, task = str(file.provenance.get("step")), file.provenance.get("task", "")
    values: dict[str, Any] = {"dtype": study.dtype, "tasks": study.tasks, "grid ranking": study.joint.ranking}
    product = _product(file.path, step)
    if product is not None:
        return {**values, **_shown(product, study)}
    # A file may name any step at all.
    if step.startswith("steps.") and code_now(step):
        keys = study_keys(command_of(step.removeprefix("steps.")))
        if step == "steps.render_prompts" and task in study.all_entries:
            values["data"] = TaskSources(study, results.parent).source(task)
        values |= {name: key.recorded(key.value(study, task)) for name, key in keys.items()}
    return values


def _product(path: str, step: str) -> Product | None:
    """The figure, page or comparison at a path, if the step makes it."""
    stem = Path(path).with_suffix("")
    return next((row for row in (*PRODUCTS, *COMPARISONS) if row.module == step and place_of(stem, row.stem)), None)


def _shown(product: Product, study: Study) -> dict[str, Any]:
    """The study's values of what a product records that it shows."""
    values = product.values(study)
    # A number of shots that the study has no more makes no figure of the paper wrong: each panel shows one.
    hidden = {"sample", *(("shots",) if product.is_of_paper else ())}
    # Models are recorded by name, and with their labels; the table of seeds records whether seeds share documents, and
    # not their choice.
    models = {"models": list(study.models), "labels": values["models"]} if "models" in values else {}
    return {name: value for name, value in {**values, **models}.items() if name not in hidden}


def _derived(provenance: Mapping[str, Any], results: Path, study: Study) -> dict[str, Any]:
    """Options that are recorded as something else."""
    options = {name: provenance[name] for name in ("dtype", "metric") if name in provenance}
    data = provenance.get("data") or {}
    if data:
        known = data.get("source") in (HUB, OWN)
        options["data"] = data["source"] if known else "embedded" if "package" in data else "mirror"
    folder, sources = _built_in_folder(provenance), _sources(provenance, results, study)
    if folder.is_dir() and not (sources and sources.folder(provenance["task"]) in sources.own_folders):
        options["prompts"] = folder.name
    ranking = (provenance.get("inputs") or {}).get("heads_ranking", {}).get("path")
    if ranking:
        # Of the joint grid: everything pruned by the aggregate, or by the task's own.
        options["grid ranking"] = "aggregate" if "/aggregate/" in ranking else "task"
    return options


def _pass_on(files: Mapping[str, File]) -> None:
    """What is made from a file that is not sound is not sound either."""
    sources = {
        name: [source["path"] for source in (file.provenance.get("inputs") or {}).values() if source["path"] in files]
        for name, file in files.items()
    }
    states = {name: file.state for name, file in files.items()}
    made_from: dict[str, list[str]] = {}
    for name, paths in sources.items():
        for path in paths:
            made_from.setdefault(path, []).append(name)
    reached = [name for name, state in states.items() if state != "sound"]
    while reached:
        for name in made_from.get(reached.pop(), ()):
            if states[name] == "sound":
                states[name] = "stale"
                reached.append(name)
    for name, paths in sources.items():
        unsound = [path for path in paths if states[path] != "sound"]
        if unsound:
            more = f", and {len(unsound) - 1} more that are not sound" if len(unsound) > 1 else ""
            files[name].flag("stale", f"made from {unsound[0]}, which is {states[unsound[0]]}{more}")


def count(files: Iterable[File]) -> dict[str, int]:
    """Number of files per state."""
    states = Counter(file.state for file in files)
    return {state: states[state] for state in reversed(STATES)}


def summary(files: Iterable[File]) -> str:
    """``140 sound, 2 stale``, without the states that no file has, but always the sound."""
    counts = count(files)
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n or state == "sound")


def report(results: Path, files: list[File]) -> Iterator[str]:
    """Lines for a reader: what is not sound and why, then a summary."""
    for state, meaning in STATES.items():
        chosen = [file for file in files if file.state == state and state != "sound"]
        if chosen:
            yield f"{state.capitalize()}: {meaning}"
        for file in chosen:
            yield f"  {_on_one_line(file.path)}"
            yield from (f"    {_on_one_line(reason)}" for reason in dict.fromkeys(file.reasons))
    if (results / UNJUDGED).exists():
        yield f"Not judged: {UNJUDGED}, Snakemake's report, which holds copies; make it again to be sure of it"
    yield f"{results}: {len(files)} files: {summary(files)}"


def _on_one_line(text: str) -> str:
    """A name or reason with line breaks, and what else no terminal shows, written out: it cannot pass for more."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
