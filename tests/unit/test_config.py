"""The configuration: its schema, its defaults, what is refused, and the environments it runs in."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lm_headroom.errors import HeadroomError
from lm_headroom.study import documentation
from lm_headroom.study.compared import COMPARISONS, ComparedModel
from lm_headroom.study.reading import parse_study, read_study
from lm_headroom.tasks.files import task_yaml
from tests.support.paths import ROOT, SNAKEMAKE

SCHEMA = json.loads((ROOT / "workflow" / "schemas" / "config.schema.json").read_text())
STUDIES = [ROOT / "config.yaml", *sorted((ROOT / "workflow" / "studies").glob("*.yaml"))]


def walk(schema):
    """Dotted key and schema of each option."""
    return documentation.options(schema)


def test_every_key_has_a_description_and_a_default():
    assert "models.NAME.revision" in dict(walk(SCHEMA))
    for path, inner in walk(SCHEMA):
        assert inner.get("description") or inner.get("default") == {}, path
        # A model and a ranking must say where they are, and a task what it is called.
        assert "default" in inner or path in ("models.NAME.source", "rankings.NAME.source", "tasks[].name"), path
        assert inner.get("type") != "object" or "additionalProperties" in inner, path


def test_defaults_reach_nested_keys():
    study = parse_study({})
    config = study.model_dump()
    assert config["importance"] == {"reduction": "token", "last_layer_tokens": "all", "criterion": None}
    assert config["limits"] == {"importance": 2500, "evaluation": None}
    assert config["pruning"]["levels"] == list(range(0, 100, 10))
    assert config["data"]["source"] == "embedded"
    assert config["joint"] == {
        "heads": list(range(0, 100, 10)), "ffns": list(range(0, 100, 10)), "ranking": "aggregate",
    }  # fmt: skip
    assert config["transfer"] == {"tasks": None, "levels": [10, 30, 50, 70, 90]}
    assert (config["prompts"], config["metric"], config["unseen"]) == ("paper", "question", [])
    assert config["head_oracle"] == {"tasks": [], "heads": "all", "others": None}
    assert study.oracle_tasks == []
    asked = parse_study({"head_oracle": {"tasks": ["copa"], "others": 30}})
    assert asked.oracle_tasks == ["copa", "arc_easy", "piqa"]
    assert [asked.oracle_heads(task) for task in ("copa", "piqa")] == ["all", 30]
    assert config["copying"] == {"head_output": "attention", "output_bias": False}
    assert config["induction"]["ablate"] == {"percents": [], "random": 3, "tasks": None}
    assert study.ablated_tasks == []
    assert parse_study({"induction": {"ablate": {"percents": [2]}}}).ablated_tasks == config["tasks"]


def test_the_released_codes_study_sets_every_option_it_differs_in():
    """Each option that names the released code in its description is set in released-code.yaml, away from the default
    wherever the default is not the released behaviour."""
    study = yaml.safe_load((ROOT / "workflow" / "studies" / "released-code.yaml").read_text())

    def value(config, path):
        for part in path.split("."):
            config = config.get(part, {})
        return config

    named = {path for path, inner in walk(SCHEMA) if "released" in inner.get("description", "")}
    assert named == {
        "limits.importance", "importance.reduction", "importance.last_layer_tokens", "correlation", "induction.bos",
        "joint.ranking", "copying.head_output", "copying.output_bias", "metric",
    }  # fmt: skip
    assert {path: value(study, path) for path in named} == {
        "limits.importance": 2500, "importance.reduction": "token", "importance.last_layer_tokens": "target",
        "correlation": "argsort", "induction.bos": True, "joint.ranking": "task", "copying.head_output": "value",
        "copying.output_bias": True, "metric": "question",
    }  # fmt: skip


def test_tasks_of_transfer():
    tasks = ["piqa", "record", "copa"]
    assert parse_study({"tasks": tasks}).transfer_tasks == ["copa", "record"]
    assert parse_study({"tasks": ["copa"]}).transfer_tasks == []
    assert parse_study({"tasks": tasks, "transfer": {"tasks": ["piqa"]}}).transfer_tasks == ["piqa"]
    assert parse_study({"tasks": tasks, "transfer": {"tasks": []}}).transfer_tasks == []


def test_models_that_are_compared():
    def compared(**models):
        return parse_study({"models": models}).compared_models

    source = "EleutherAI/pythia-70m"
    assert compared(alone={"source": source}) == []
    parsed = compared(
        a={"source": source, "revision": "step0"},
        b={"source": source, "revision": "step143000"},
        c={"source": source},
        d={"source": "HuggingFaceTB/SmolLM3", "revision": "stage1-step-40000", "group": "smol"},
        e={"source": "allenai/OLMo", "revision": "step1000-tokens4B"},
        e2={"source": "embedded"},
        f={"source": "some/folder named so/", "revision": "stepping-stone", "step": 7},
        g={"source": "runs/a/final"},
        h={"source": "runs/b/final"},
    )
    assert parsed == [
        ComparedModel("a", "pythia-70m", 0), ComparedModel("b", "pythia-70m", 143000), ComparedModel("c", "pythia-70m"),
        ComparedModel("d", "smol", 40000), ComparedModel("e", "OLMo", 1000), ComparedModel("e2", "e2"),
        ComparedModel("f", "folder_named_so", 7), ComparedModel("g", "runs_a_final"),
        ComparedModel("h", "runs_b_final"),
    ]  # fmt: skip
    assert [ComparedModel.parse(str(model)) for model in parsed] == parsed
    assert ComparedModel.parse("a") == ComparedModel("a", "a")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_shipped_studies_are_valid(path):
    study = read_study(path)
    if study.data.source != "mirror":
        study.check_folders()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"task": []}, r"config key 'task' is unknown \(did you mean 'tasks'\?\)"),
        ({"limits": {"evaluations": 3}}, r"config key 'limits.evaluations' is unknown \(did you mean 'evaluation'\?\)"),
        ({"models": {"m": {"sorce": "x"}}}, r"config key 'models.m.sorce' is unknown \(did you mean 'source'\?\)"),
        (
            {"pruning": {"level": []}},
            r"'pruning.level' is unknown \(did you mean 'levels'\?\); known here: controls, ffn_controls, levels",
        ),
        ({"zzz": 1}, r"config key 'zzz' is unknown; known here: ablation, add_bos, "),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest_known(config, message):
    with pytest.raises(HeadroomError, match=message):
        parse_study(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["arc_easy", "aggregate"]}, "'tasks': 'aggregate' cannot be a task name"),
        ({"tasks": ["random_1"]}, "'random_1' cannot be a task name"),
        ({"tasks": ["iterative"]}, "'iterative' cannot be a task name"),
        ({"tasks": ["magnitude"]}, "'magnitude' cannot be a task name"),
        ({"tasks": ["a/b"]}, "'a/b' cannot be a task name"),
        ({"tasks": ["average"]}, "'average' cannot be a task name"),
        ({"task_folders": ["mine", "mine"]}, "'task_folders': .* has non-unique elements"),
        ({"unseen": ["own"]}, "'own' cannot be a task name"),
        ({"unseen": ["piqa"]}, "'unseen': 'piqa' is in 'tasks' too; a task is one or the other"),
        (
            {"transfer": {"tasks": ["piqua"]}},
            r"'transfer.tasks': 'piqua' is not in 'tasks' \(did you mean 'piqa'\?\)",
        ),
        ({"tasks": ["copa"], "transfer": {"tasks": ["copa"]}}, "a single task has no other whose ranking"),
        (
            {"unseen": ["mathqa"], "tasks": ["arc_easy"], "data": {"source": "mirror", "mirror": "nowhere"}},
            "nowhere/arc_easy holds no",
        ),
        ({"models": {"prompts": {"source": "x"}}}, "'models': 'prompts' cannot be a model name"),
        ({"models": {"matrix": {"source": "x"}}}, "'matrix' cannot be a model name"),
        ({"models": {"comparison": {"source": "x"}}}, "'comparison' cannot be a model name"),
        (
            {"induction": {"ablate": {"percents": [2], "tasks": ["piqua"]}}},
            r"'induction.ablate.tasks': 'piqua' is in neither 'tasks' nor 'unseen' \(did you mean 'piqa'\?\)",
        ),
        (
            {"induction": {"sequences": 0, "ablate": {"percents": [2]}}},
            "'induction.ablate.percents': without induction sequences no heads are known to ablate",
        ),
        ({"data": {"source": "mirror"}}, "'data.mirror': source is mirror, so name the mirror folder"),
        ({"data": {"mirror": "x"}}, "'data.mirror': source is embedded, which reads no mirror"),
        ({"data": {"source": "hub", "mirror": "x"}}, "'data.mirror': source is hub, which reads no mirror"),
        ({"data": {"source": "mirror", "mirror": "nowhere"}}, "nowhere/arc_easy holds no Parquet files for task"),
    ],
)
def test_names_and_combinations_that_cannot_be(changes, message):
    with pytest.raises(HeadroomError, match=message):
        parse_study(changes).check_folders()


@pytest.mark.parametrize(
    "changes",
    [
        {"shots": []},
        {"shots": ["0"]},
        {"shots": [-1]},
        {"tasks": ["piqa", "piqa"]},
        {"pruning": {"levels": [101]}},
        {"pruning": {"levels": [-1]}},
        {"pruning": {"levels": [2.5]}},
        {"pruning": {"controls": ["best"]}},
        {"pruning": {"controls": ["own"]}},
        {"joint": {"ranking": "own"}},
        {"transfer": {"levels": []}},
        {"copying": {"head_output": "values"}},
        {"prompts": "papers"},
        {"metric": "answers"},
        {"dtype": "int8"},
        {"limits": {"evaluation": 0}},
        {"models": {}},
        {"models": {"m": {}}},
        {"models": {"m": {"source": "x", "group": "a,b"}}},
        {"models": {"m": {"source": "x", "step": -1}}},
        {"models": {"m": {"source": "x", "trust_remote_code": "yes"}}},
        {"induction": {"sequences": -1}},
        {"induction": {"ablate": {"percents": [0]}}},
        {"induction": {"ablate": {"random": 0}}},
        {"ffn": {"selection_bias": "yes"}},
        {"gpus": 0},
        {"max_hours": 0},
    ],
    ids=str,
)
def test_wrong_values_are_refused(changes):
    with pytest.raises(HeadroomError, match="^config key '") as refused:
        parse_study(changes)
    assert next(iter(changes)) in str(refused.value)
    assert ". About this key: " in str(refused.value)


def test_snakemake_says_it_in_one_sentence(tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text("shot: [0]\n")
    done = subprocess.run(
        [*SNAKEMAKE, "-s", str(ROOT / "Snakefile"), "--directory", str(tmp_path), "-n",
         "--configfile", str(study)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "config key 'shot' is unknown (did you mean 'shots'?)" in done.stdout
    assert "Traceback" not in done.stdout


def test_own_task_yamls_are_found_by_their_task_line(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.yaml").write_text("include: y\ntask: mine # why\n")
    assert task_yaml("mine", tmp_path) == tmp_path / "deep" / "x.yaml"
    assert task_yaml("min", tmp_path) is None


def pins(text):
    return {
        name.lower().replace("_", "-"): version
        for name, version in re.findall(r"^\s*-?\s*([A-Za-z0-9_.-]+)={1,2}([\w.]+)\s*$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("name", ["model", "prompts", "analysis"])
def test_conda_environments_pin_what_pip_pins(name):
    text = (ROOT / "envs" / f"{name}.yaml").read_text()
    environment = yaml.safe_load(text)
    assert environment["channels"][-1] == "nodefaults"
    wanted = pins((ROOT / "envs" / "requirements.txt").read_text())
    pinned = pins(text)
    # conda-forge has some packages under other names.
    pinned = {{"pytorch": "torch", "matplotlib-base": "matplotlib"}.get(k, k): v for k, v in pinned.items()}
    python = pinned.pop("python")
    pinned.pop("pip", None)
    assert python == "3.11"
    assert pinned, text
    assert {k: wanted.get(k) for k in pinned} == pinned


LOCKS = {
    "requirements.txt": ("lock.txt",),
    "requirements-dev.txt": ("lock-dev.txt", "lock.txt"),
    "requirements-lens.txt": ("lock-lens.txt",),
    "requirements-torchao.txt": ("lock-torchao.txt",),
}


def locked(name):
    """Package to version and digests of a lock file."""
    blocks = re.split(r"^(?=[\w.-]+==)", (ROOT / "envs" / name).read_text(), flags=re.MULTILINE)[1:]
    heads = [re.match(r"([\w.-]+)==([^\s;\\]+)", block).groups() for block in blocks]
    return {
        package.lower().replace("_", "-"): (version, re.findall(r"--hash=sha256:([0-9a-f]{64})\b", block))
        for (package, version), block in zip(heads, blocks, strict=True)
    }


@pytest.mark.parametrize("requirements", LOCKS)
def test_lock_files_hold_every_direct_pin(requirements):
    versions = {package: version for name in LOCKS[requirements] for package, (version, _) in locked(name).items()}
    direct = pins((ROOT / "envs" / requirements).read_text())
    assert direct
    assert {package: versions.get(package) for package in direct} == direct


def test_lock_files_name_a_digest_of_all_that_the_installed_packages_need():
    """What pip does not resolve must be whole: each requirement of each locked package is locked, too."""
    names = set()
    for path in (ROOT / "envs").glob("lock*.txt"):
        packages = locked(path.name)
        assert packages
        assert all(digests for _, digests in packages.values()), path.name
        names |= set(packages)
    runtime = set(locked("lock.txt"))
    for package in runtime - {"torch"}:
        try:
            needed = [Requirement(text) for text in requires(package) or []]
        except PackageNotFoundError:
            continue  # Of another platform.
        wanted = {canonicalize_name(r.name) for r in needed if not r.marker or r.marker.evaluate({"extra": ""})}
        assert wanted <= {canonicalize_name(name) for name in runtime}, package


def test_every_install_of_the_makefile_checks_digests():
    lines = [
        line
        for line in (ROOT / "Makefile").read_text().splitlines()
        if re.search(r"^[^#]*(pip install|\$\(PIP\))", line)
    ]
    assert len(lines) == 3
    for line in lines:
        # The package itself has no digest, and takes nothing from elsewhere.
        assert line.startswith("PIP := ") or "--require-hashes" in line or line.endswith("--no-build-isolation -e ."), (
            line
        )


def test_imports_of_an_environment_are_pinned_in_it():
    """Each family of rules has what its steps import."""
    import ast

    from lm_headroom.artifacts import code_digest

    steps = {
        "prompts": ["steps.render_prompts"],
        "model": [
            *(f"steps.{step}" for step in ("score_heads", "score_ffns", "score_head_knockouts", "score_induction")),
            *(f"steps.{step}" for step in ("evaluate_pruned", "evaluate_joint", "evaluate_transfer")),
            *(f"steps.{step}" for step in ("ablate_induction", "select_ffns")),
            "models.embedded",
            "models.resolve",
        ],
        "analysis": [
            *(f"steps.{step}" for step in ("aggregate_heads", "aggregate_ffns", "retain_capacity")),
            *(f"steps.{step}" for step in ("correlate_tasks", "correlate_shots", "correlate_oracle")),
            *(f"steps.compare_{what}" for what in ("models", *COMPARISONS)),
            *(f"report.figures.compare_{what}" for what in COMPARISONS),
            "report.tables.table1",
            "report.tables.oracle",
            "report.figures.oracle",
            "report.tables.reference",
            "report.findings.page",
            "report.tables.induction_ablation",
            "report.tables.selection_bias",
            "report.figures.induction_ablation",
        ]
        + [f"report.figures.{path.stem}" for path in (code_digest.PACKAGE_ROOT / "report" / "figures").glob("fig*.py")],
    }
    provided = {
        "pytorch": "torch",
        "lm_eval": "lm_eval",
        "matplotlib-base": "matplotlib",
        "pyyaml": "yaml",
        "markdown-it-py": "markdown_it",
        "pillow": "PIL",
    }
    for name, modules in steps.items():
        closure, pending = {}, list(modules)
        while pending:
            module = pending.pop()
            if module not in closure:
                closure[module] = code_digest._module_path(module, code_digest.PACKAGE_ROOT)
                pending.extend(code_digest._imports(closure[module], module, code_digest.PACKAGE_ROOT))
        imported = set()
        for path in closure.values():
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    imported.add(node.module.split(".")[0])
        third_party = {m for m in imported if m not in sys.stdlib_module_names} - {"lm_headroom"}
        listed = pins((ROOT / "envs" / f"{name}.yaml").read_text())
        available = {provided.get(p, p).replace("-", "_") for p in listed}
        # What lm-eval itself is built on.
        available |= {"datasets", "jinja2", "lm_eval"} if "lm-eval" in listed else set()
        # An extra, which a model asks for by name.
        available |= {"torchao"}
        assert third_party <= available, (name, third_party - available)


def test_steps_without_a_model_import_no_torch():
    code = (
        "import sys; from lm_headroom.steps import aggregate_heads, aggregate_ffns, correlate_tasks, "
        "retain_capacity;"
        "from lm_headroom.report.findings import page;"
        "from lm_headroom.audit import show, verify;"
        "from lm_headroom.report.tables import induction_ablation, selection_bias, reference;"
        "from lm_headroom.report.figures import fig03, fig05, fig07, fig18;"
        "from lm_headroom.steps import compare_prunable, compare_rankings;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
