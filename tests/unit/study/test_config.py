"""Reading studies: nothing is read otherwise than it looks, and what cannot be right is refused in a sentence."""

import json
import os
import re
import subprocess
import sys

import jsonschema
import pytest
import yaml

from lm_headroom.errors import HeadroomError
from lm_headroom.study import documentation
from lm_headroom.study.reading import load, merge, parse_study, read_file, read_study
from lm_headroom.study.values import LONGEST_NAME
from tests.support.paths import ROOT

STUDIES = [ROOT / "config.yaml", *sorted((ROOT / "workflow" / "studies").glob("*.yaml"))]
SURPRISES = [
    "010", "-017", "08", "0x10", "0XFF", "0b11", "0o17", "1_000", "1,000", "1:30", "190:20:30.15", "1e3", "12e45",
    "1.5e3", "1_0.5", "00.5", "yes", "No", "ON", "off", "2024-01-01", "2024-13-45", "2001-12-14 21:59:43", "=", "<<",
]  # fmt: skip
"""Plain values that versions of YAML, or a reader, take for different things."""
AS_THEY_LOOK = {
    "3": 3, "+3": 3, "-3": -3, "0": 0, "0.5": 0.5, ".5": 0.5, "1.0e+3": 1000.0, "true": True, "False": False, "~": None,
    "null": None, "": None, "step1000": "step1000", "7b": "7b", "1.5.2": "1.5.2", "v1:30": "v1:30", "0x": "0x",
    "y": "y", "0b3fa": "0b3fa", "~/x": "~/x", "a 'b' $(c) `d`; {e} \u00e9": "a 'b' $(c) `d`; {e} \u00e9",
}  # fmt: skip

NO_NAMES = [
    "a\n", "a b", "-a", ".a", "a/b", "../a", "a'", "$(a)", "{a}", "caf\u00e9", "", "a" * (LONGEST_NAME + 1), "a" * 30,
    "x" + "ab" * 25,
]  # fmt: skip
NO_TEXTS = [
    "-x", "--help", "a\nb", "a\n", "\r", "a\tb", "a\0b", "a\x1bb", "a\u2028b", "", "  ", "\ud800", "a\x85b", "a" * 5000,
]  # fmt: skip
TEXTS = [
    "a b", "it's", 'a "b"', "$(touch x)", "`x`", "a;b", "{x}", "caf\u00e9/\u6a21\u578b", "a-b", "./-x", "a\u00a0b",
]  # fmt: skip


def written(folder, content, name="study.yaml"):
    """A study file of this text, or these bytes."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class TestYaml:
    @pytest.mark.parametrize("text", SURPRISES)
    def test_a_value_that_can_be_read_in_two_ways_is_refused_and_is_text_in_quotes(self, text):
        with pytest.raises(HeadroomError) as refused:
            load(f"models:\n  m:\n    step:\n    - 1\n    - {text}", "s.yaml")
        assert str(refused.value).startswith("s.yaml, line 5: ")
        assert "config key 'models.m.step[1]'" in str(refused.value)
        assert f"{text} is " in str(refused.value)
        assert load(f"a: '{text}'", "s.yaml") == {"a": text}

    @pytest.mark.parametrize("text", AS_THEY_LOOK)
    def test_what_looks_like_one_thing_is_that(self, text):
        value = load(f"a: {text}", "s.yaml")["a"]
        assert value == AS_THEY_LOOK[text]
        assert type(value) is type(AS_THEY_LOOK[text])

    @pytest.mark.parametrize("text", ["tasks: [a]\nshots: [0]\ntasks: [b]", "limits: {importance: 3, importance: 4}",
                                      "models:\n  m: {source: a}\n  m: {source: b}", '{"dtype": 1, "dtype": 2}',
                                      "dtype: a\n'dtype': b", "x-a: {b: 1, b: 2}"])  # fmt: skip
    def test_a_key_twice_is_refused(self, text):
        with pytest.raises(HeadroomError, match="the key '.*' is there twice"):
            load(text, "s.yaml")

    @pytest.mark.parametrize("key", ["125", "true", "~", "1.5", "[a, b]", "{a: 1}", "no", "2024-01-01", "0x10"])
    def test_a_key_that_is_no_text_is_refused(self, key):
        with pytest.raises(HeadroomError, match=r"s.yaml, line 2: .*in quotes"):
            load(f"models:\n  ? {key}\n  : {{source: embedded}}", "s.yaml")
        if key[0] not in "[{":
            assert list(load(f"models: {{'{key}': 1}}", "s.yaml")["models"]) == [key]

    @pytest.mark.parametrize(
        "tag", ["!!int '3'", "!!str 3", "!!python/object/apply:os.getcwd []", "!mine x", "!!set {a}", "!!binary aGFs"]
    )
    def test_tags_are_refused(self, tag):
        with pytest.raises(HeadroomError, match=r"config key 'threads': the tag .* is not read here"):
            load(f"threads: {tag}", "s.yaml")

    def test_anchors_and_merged_keys_are_read(self):
        text = """
        x-opt: &opt {source: facebook/opt-125m, allow_pickle: true}
        x-more: [1, {two: 3}]
        models:
          a: *opt
          b: {<<: *opt, revision: main, allow_pickle: false}
        """
        study = parse_study(load(text, "s.yaml"))
        assert study.models["a"].allow_pickle
        assert (study.models["b"].source, study.models["b"].allow_pickle) == ("facebook/opt-125m", False)
        with pytest.raises(HeadroomError, match="config key 'y-opt' is unknown"):
            parse_study({"y-opt": {}})

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("# caf\u00e9\ntasks: [copa]".encode("latin-1"), "line 1 is not in UTF-8"),
            ("tasks: [copa]\n# \u2013\n".encode("cp1252"), "line 2 is not in UTF-8"),
            ("tasks: [copa]".encode("utf-16"), "line 1 is not in UTF-8"),
            ("tasks: [copa]".encode("utf-16-le"), "unacceptable character #x0000"),
            (b"tasks: [co\0pa]", "unacceptable character #x0000"),
            (b"tasks: [co\x1bpa]", "unacceptable character #x001b"),
            (b"limits:\n\timportance: 3", r"line 2, column 1: .* found character '\\t'"),
            (b"", "the file is empty"),
            (b"# nothing but this\n", "the file is empty"),
            (b"- a\n- b\n", "expected keys with values, found list"),
            (b"tasks\n", "expected keys with values, found str"),
            (b"tasks: [a\n", "line 2, column 1: .* expected ',' or ']'"),
            (b"tasks: *a\n", "undefined alias 'a'"),
            (b"tasks: [a]\n---\ntasks: [b]\n", "expected a single document"),
            (b"x-a: " + b"[" * 5000 + b"]" * 5000, "nested more than 20 deep"),
            (b"{a: " * 3000, "nested more than 20 deep"),
            (b"threads: " + b"9" * 5000, "a number of 5000 digits"),
            (b"? [a]\n: 1\n", "a list or mapping as a key is no text"),
        ],
    )  # fmt: skip
    def test_a_file_that_is_no_study_is_refused_with_its_name(self, tmp_path, content, message):
        with pytest.raises(HeadroomError, match=rf"study.yaml.*{message}"):
            read_file(written(tmp_path, content))

    def test_a_byte_order_mark_of_utf8_is_none_of_the_content(self, tmp_path):
        assert read_study(written(tmp_path, b"\xef\xbb\xbftasks: [copa]")).tasks == ["copa"]

    def test_a_study_that_is_not_there_is_refused(self, tmp_path):
        for path in (tmp_path, tmp_path / "none.yaml"):
            with pytest.raises(HeadroomError, match="no such study"):
                read_study(path)


class TestValues:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"threads": 10**30}, "'threads': 1000000000000000000000000000000 is greater than the maximum of 4096"),
            ({"gpus": 2**64}, "'gpus': 18446744073709551616 is greater than"),
            ({"shots": [0, 10**20]}, r"'shots\[1\]': 100000000000000000000 is greater than the maximum of 1000"),
            ({"seeds": [2**32]}, r"'seeds\[0\]': 4294967296 is greater than the maximum of 4294967295"),
            ({"limits": {"importance": 10**20}}, "'limits.importance': 100000000000000000000 is greater"),
            ({"token_budget": 2**70}, "'token_budget': .* is greater than the maximum of 1000000000"),
            ({"token_budget": 15}, "'token_budget': 15 is less than the minimum of 16"),
            ({"token_budget": "much"}, "'token_budget': expected auto or a whole number, got 'much'"),
            ({"head_oracle": {"others": 2}}, "'head_oracle.others': 2 is less than the minimum of 3"),
            ({"induction": {"sequences": 10**9}}, "'induction.sequences': 1000000000 is greater"),
            ({"models": {"m": {"source": "x", "step": 10**20}}}, "'models.m.step': 100000000000000000000 is greater"),
            ({"shots": [1.0]}, r"'shots\[0\]': expected a whole number, got 1.0"),
            ({"pruning": {"levels": [0, 10.0]}}, r"'pruning.levels\[1\]': expected a whole number, got 10.0"),
            ({"limits": {"evaluation": 100.0}}, "'limits.evaluation': expected a whole number or null, got 100.0"),
            ({"threads": 2.0}, "'threads': expected a whole number, got 2.0"),
            ({"seeds": [True]}, r"'seeds\[0\]': expected a whole number, got True"),
            ({"margin": "2"}, "'margin': expected a number, got '2'"),
            ({"margin": True}, "'margin': expected a number, got True"),
            ({"margin": float("nan")}, "'margin': expected a number, got nan"),
            ({"margin": 0}, "'margin': 0 is not greater than 0"),
            ({"margin": 100.5}, "'margin': 100.5 is greater than the maximum of 100"),
            ({"max_hours": float("inf")}, "'max_hours': expected a number or null, got inf"),
            ({"ablation": "median"}, r"'ablation': 'median' is not one of \['zero', 'mean', 'resample'\]"),
            ({"ablation": 0}, "'ablation': 0 is not one of"),
            ({"pruning": {"controls": ["own_median"]}}, "'own_median' is no control ranking"),
            (
                {"ablation": "mean", "pruning": {"controls": ["own_mean"]}},
                "'pruning.controls': 'own_mean' is the own ranking once more, since ablation is mean; leave it out",
            ),
            ({"pruning": {"controls": ["own_zero"]}}, "'own_zero' is the own ranking once more"),
            ({"tasks": ["own_mean"]}, "'own_mean' cannot be a task name here"),
            ({"add_bos": 1}, "'add_bos': expected auto or true or false, got 1"),
            ({"tasks": [125]}, r"'tasks\[0\]': expected text or keys with values, got 125; put a text in quotes"),
            ({"models": {"m": {"source": "x", "revision": 20240101}}}, "'models.m.revision': expected text or null"),
            ({"induction": None}, "'induction': expected keys with values, got None"),
            ({"models": {"m": "embedded"}}, "'models.m': expected keys with values, got 'embedded'"),
            ({"models": {"m": {"revision": "x"}}}, "'models.m.source': is not there, and has no default"),
            ({"pruning": {"controls": ["random_1", "random_01"]}}, r"'random_01' is no .* \(did you mean random_1\?\)"),
            ({"pruning": {"controls": ["random_00"]}}, r"'random_00' is no .* \(did you mean random_0\?\)"),
            ({"pruning": {"controls": ["random_" + "9" * 20]}}, "'pruning.controls': 'random_9+' is no control"),
            ({"pruning": {"controls": ["reversed\n"]}}, r"'reversed\\n' is no control ranking"),
        ],
        ids=str,
    )  # fmt: skip
    def test_a_value_that_cannot_be_is_named_with_what_was_expected(self, changes, message):
        with pytest.raises(HeadroomError, match=f"^config key .*{message}"):
            parse_study(changes)

    @pytest.mark.parametrize("name", NO_NAMES)
    def test_names_are_what_a_path_and_a_command_can_hold(self, name):
        for changes, what in (
            ({"tasks": [name]}, "task name"),
            ({"unseen": [name]}, "task name"),
            ({"models": {name: {"source": "embedded"}}}, "model name"),
            ({"models": {"m": {"source": "embedded", "group": name}}}, "group"),
        ):
            with pytest.raises(HeadroomError, match=f"cannot be a {what} here"):
                parse_study(changes)

    @pytest.mark.parametrize("text", NO_TEXTS)
    def test_texts_are_one_line_that_is_no_option(self, text):
        for changes in (
            {"models": {"m": {"source": text}}},
            {"models": {"m": {"source": "embedded", "revision": text}}},
            {"data": {"source": "mirror", "mirror": text}},
            {"hardware": text},
        ):
            with pytest.raises(HeadroomError, match="^config key '[a-z.]+': ") as refused:
                parse_study(changes)
            assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        "text", ["a b", "it's", 'a "b"', "$(touch x)", "`x`", "a;b", "{x}", "caf\u00e9/\u6a21\u578b", "a-b", "./-x"]
    )
    def test_texts_may_hold_what_a_shell_would_read(self, text):
        data = {"source": "mirror", "mirror": text}
        study = parse_study({"models": {"m": {"source": text, "revision": text}}, "data": data})
        assert (study.models["m"].source, study.models["m"].revision, study.data.mirror) == (text, text, text)

    @pytest.mark.parametrize("source", ["a--b", "owner/a--b", "a..b", "owner/..b"])
    def test_a_source_that_the_hub_cannot_have_must_be_a_folder(self, tmp_path, source):
        study = parse_study({"models": {"m": {"source": source}}})
        with pytest.raises(
            HeadroomError, match=f"'models.m.source': '{source}' is no folder here, and no name on the hub"
        ):
            study.check_folders(tmp_path)
        (tmp_path / source).mkdir(parents=True)
        study.check_folders(tmp_path)

    def test_the_home_folder_of_a_mirror_is_found(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "x" / "copa").mkdir(parents=True)
        (tmp_path / "x" / "copa" / "train.parquet").touch()
        study = parse_study({"tasks": ["copa"], "data": {"source": "mirror", "mirror": "~/x"}})
        assert study.data.mirror_folder == tmp_path / "x"
        study.check_folders()
        lost = parse_study({"data": {"source": "mirror", "mirror": "~nobody-has-this-name/x"}})
        with pytest.raises(HeadroomError, match="'data.mirror': '~nobody-has-this-name/x' names no home folder"):
            lost.check_folders()

    def test_what_follows_from_the_options(self):
        study = parse_study({})
        assert study.joint.has_grid
        assert not study.pruning.is_iterative
        assert (study.importance.ranked_by, study.ffn.other_selection) == ("token", "evaluation")
        study = parse_study(
            {
                "joint": {"heads": [50, 10], "ffns": []},
                "pruning": {"levels": [50, 5], "schedule": "iterative", "controls": ["token", "reversed", "random_0"]},
                "transfer": {"levels": [30]},
                "importance": {"last_layer_tokens": "target"},
                "ffn": {"selection": "evaluation"},
            }
        )
        assert not study.joint.has_grid
        assert (study.joint.heads_with_zero, study.joint.ffns_with_zero) == ([0, 10, 50], [0])
        assert (study.pruning.levels_with_zero, study.transfer.levels_with_zero) == ([0, 5, 50], [0, 30])
        assert study.pruning.is_iterative
        assert study.pruning.of_ffns == ["random_0", "reversed", "token"]
        assert (study.importance.ranked_by, study.ffn.other_selection) == ("target", "scoring")

    def test_a_number_stays_as_it_is_written(self):
        written = [parse_study({"margin": value}).margin for value in (2, 2.0, 2.5)]
        assert [str(value) for value in written] == ["2", "2.0", "2.5"]


class TestMerged:
    def test_later_files_and_changes_go_over_earlier_ones_key_by_key(self, tmp_path):
        one = written(
            tmp_path, "limits: {importance: 5, evaluation: 6}\nshots: [0]\nmodels: {a: {source: x}}", "1.yaml"
        )
        two = written(tmp_path, '{"limits": {"importance": 7}, "models": {"b": {"source": "y"}}}', "2.json")
        study = parse_study(
            merge([one, two], ["shots=[0, 1]", "limits={evaluation: null}", "margin=2.5", "add_bos=true"])
        )
        assert (study.limits.importance, study.limits.evaluation) == (7, None)
        assert (study.shots, study.margin, study.add_bos, list(study.models)) == ([0, 1], 2.5, True, ["a", "b"])
        assert parse_study(merge([one])).shots == [0]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("shots=[0, 010]", r"--config shots, line 1: config key 'shots\[1\]': 010 is"),
            ("limits={importance: 5, importance: 6}", "--config limits.*the key 'importance' is there twice"),
            ("shot=[0]", "config key 'shot' is unknown"),
            ("threads=1e1", "config key 'threads': 1e1 is text to YAML"),
            ("add_bos=yes", "config key 'add_bos': yes is true or false"),
            ("tasks=[copa", "--config tasks: not a study: line 1"),
            ("tasks=", "config key 'tasks': expected a list, got None"),
        ],
    )
    def test_a_change_is_checked_as_a_file_is(self, tmp_path, change, message):
        with pytest.raises(HeadroomError, match=message):
            parse_study(merge([written(tmp_path, "tasks: [copa]")], [change]))

    def test_each_file_is_checked(self, tmp_path):
        good, bad = (
            written(tmp_path, "shots: [0]", "good.yaml"),
            written(tmp_path, "shots: [0]\nshots: [1]", "bad.yaml"),
        )
        for paths in ([good, bad], [bad, good]):
            with pytest.raises(HeadroomError, match="bad.yaml, line 2: the key 'shots' is there twice"):
                merge(paths)


def test_generated_files_are_current():
    for path, text in documentation.texts().items():
        assert path.read_text() == text, f"{path} is not what the typed study says: run make options"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_editors_find_the_schema_by_the_first_line_of_a_study(path):
    first = path.read_text().splitlines()[0]
    prefix = "# yaml-language-server: $schema="
    assert first.startswith(prefix)
    assert (path.parent / first.removeprefix(prefix)).resolve() == documentation.SCHEMA
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(documentation.SCHEMA.read_text()))


@pytest.mark.parametrize(
    "changes",
    [
        *({"tasks": [name]} for name in ("a\n", "a b", "-a", "")),
        *({"models": {"m": {"source": text}}} for text in ("a\n", "-x", "a\nb", "")),
        {"models": {"m\n": {"source": "x"}}},
        {"models": {}},
        {"models": {"m": {}}},
        {"pruning": {"controls": ["random_01"]}},
        {"pruning": {"controls": ["reversed\n"]}},
        {"shots": [0.5]},
        {"shots": [0, 0]},
        {"threads": 10**30},
        {"margin": 0},
        {"shot": [0]},
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_typed_study_refuses(changes):
    with pytest.raises(HeadroomError):
        parse_study(changes)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changes, json.loads(documentation.SCHEMA.read_text()))


class TestSnakemake:
    """The workflow goes by what is read here, not by what Snakemake has made of the files."""

    def plan(self, folder, *options):
        command = [sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "--directory", folder, "-n", "prompts"]
        env = {**os.environ, "HOME": str(folder)}
        return subprocess.run(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
        )

    def test_a_key_twice_in_any_file_is_refused(self, tmp_path):
        good, bad = (written(tmp_path, f"shots: [0]\n{more}", f"{i}.yaml") for i, more in enumerate(("", "shots: [1]")))
        done = self.plan(tmp_path, "--configfile", good, bad)
        assert done.returncode == 1
        assert "1.yaml, line 2: the key 'shots' is there twice" in done.stdout
        assert "Traceback" not in done.stdout

    def test_changes_on_the_command_line_are_numbers_where_they_look_like_numbers(self, tmp_path):
        study = written(tmp_path, "x-two: &two [piqa, copa]\ntasks: *two\nunseen: [arc_easy]")
        done = self.plan(tmp_path, "--configfile", study, "--config", "shots=[0, 1, 5]", "limits={importance: 6}")
        assert done.returncode == 0, done.stdout
        assert re.search(r"^render_prompts +9$", done.stdout, re.M)
        done = self.plan(tmp_path, "--configfile", study, "--config", "shots=[0, 010]")
        assert "config key 'shots[1]': 010 is" in done.stdout

    def test_a_mirror_in_the_home_folder_is_read(self, tmp_path):
        (tmp_path / "x" / "copa").mkdir(parents=True)
        (tmp_path / "x" / "copa" / "train.parquet").touch()
        study = written(tmp_path, "tasks: [copa]\nshots: [0]\ndata: {source: mirror, mirror: ~/x}")
        done = self.plan(tmp_path, "--configfile", study, "--printshellcmds")
        assert done.returncode == 0, done.stdout
        assert f"--data={tmp_path / 'x'}" in done.stdout
