"""Texts of a study reach commands as they are, and no shell reads them."""

from __future__ import annotations

import os

import pyarrow.parquet as pq
import pytest

from lm_headroom.artifacts.store import provenance
from tests.support.checkpoints import write_hub_tokenizer
from tests.support.records import write_records
from tests.support.tiny_models import tiny_model
from tests.support.workflow_studies import Study, new_study

# What shells, Snakemake and argparse read in their own ways; each command within would leave a file.
ODD = '-it\'s "x" $(touch PWNED-a) `touch PWNED-b`; touch PWNED-c & touch PWNED-d | $HOME {x} {{y}} {log} * ? ~ # é [a]'


def planted(study: Study) -> list[str]:
    """Files that a text which ran as code has left."""
    return [
        name for _, folders, files in os.walk(study.folder) for name in [*folders, *files] if name.startswith("PWNED")
    ]


@pytest.mark.parametrize("tmp", [None, "t'm \"p; touch PWNED-t `touch PWNED-u`"], ids=["warm", "cold"])
def test_a_folder_of_any_name_is_a_mirror_and_a_model(tmp_path, tokenizer, monkeypatch, tmp):
    """By warm processes where temporary files lie as ever; a long name of their folder has no place for a socket."""
    study = new_study(tmp_path / "checkout")
    write_records(study.folder / ODD)
    model = study.folder / ODD / "model"
    tiny_model("opt").float().save_pretrained(model)
    write_hub_tokenizer(tokenizer, model)
    if tmp:
        (study.folder / tmp).mkdir()
        monkeypatch.setenv("TMPDIR", str(study.folder / tmp))
    study.configure(
        models={"tiny": {"source": f"./{ODD}/model"}},
        device="cpu",
        threads=1,
        tasks=["piqa", "winogrande"],
        shots=[0],
        limits={"importance": 4, "evaluation": 4},
        data={"source": "mirror", "mirror": f"./{ODD}"},
        pruning={"levels": [0, 50]},
        induction={"sequences": 2},
    )
    prompts = "results/prompts/piqa/0shot-seed1234.parquet"
    study.run(prompts, "results/tiny/model.json")
    assert pq.read_table(study.folder / prompts).num_rows
    assert provenance(study.folder / prompts)["task"] == "piqa"
    assert planted(study) == []
    assert study.planned(prompts, "results/tiny/model.json") == {}


def test_a_line_break_in_a_folder_name_is_refused(tmp_path):
    study = new_study(tmp_path / "checkout")
    study.configure(tasks=["piqa"], data={"source": "mirror", "mirror": "a\n; touch PWNED"})
    done = study.snakemake("--dry-run")
    assert done.returncode != 0
    assert "holds a line break" in done.stdout
    assert planted(study) == []
