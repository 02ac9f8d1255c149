"""The generic profile with the plainest scheduler there is: a script that starts what it is given."""

from __future__ import annotations

import signal

from tests.support.cluster_studies import SUBMIT, end, wait_for

FAULTS = """\
case "$3" in
  score-heads) once failure && exit 1;;
  score-induction) once sleep && exec sleep 600;;
esac
"""


def test_jobs_through_a_plain_script(cluster_study):
    study = cluster_study
    study.nodes(FAULTS)
    submit = study.program("submit", SUBMIT.format(notes=study.notes))
    cancel = study.program("cancel", '#!/bin/sh\nfor job; do kill -- "-$job"; done\n')
    asked = "{rule} {threads} {resources.mem_mb} {resources.runtime} {resources.gpu}"
    profile = study.folder / "profiles" / "generic" / "config.yaml"
    lines = profile.read_text().replace("qdel", str(cancel)).splitlines()
    start = lines.index("cluster-generic-submit-cmd: >-")
    lines[start : start + 3] = [f'cluster-generic-submit-cmd: "{submit} {asked}"']
    profile.write_text("\n".join(lines))
    aggregate = "results/tiny/head_importance/aggregate/0shot-seed1234.parquet"
    targets = (aggregate, "results/tiny/induction/copying.parquet")
    options = ("--workflow-profile", "profiles/generic", *targets)

    # Interrupted while a job sleeps, which takes the job with it, and after another has failed; then to the end.
    process = study.start(*options)
    wait_for((study.notes / "sleep").is_dir, 1200, process)
    wait_for(lambda: (study.notes / "submitted").read_text().count("score_heads ") == 2, 1200, process)
    end(process, signal.SIGINT)
    process = study.start(*options)
    printed = process.communicate(timeout=4000)[0]
    assert process.returncode == 0, printed
    assert all((study.folder / target).is_file() for target in targets)

    submitted = [line.split()[:5] for line in (study.notes / "submitted").read_text().splitlines()]
    of_rule = {rule: [row[1:] for row in submitted if row[0] == rule] for rule, *_ in submitted}
    assert set(of_rule) == {"score_heads", "aggregate_heads", "score_induction"}
    assert of_rule["aggregate_heads"] == [["1", "2000", "20", "0"]]
    # Failed once, and asked for more.
    heads = [tuple(map(int, row)) for row in of_rule["score_heads"]]
    assert (heads[0][0], heads[0][3]) == (1, 1)
    assert heads[1][1] > 1.4 * heads[0][1]
    assert heads[1][2] > 1.8 * heads[0][2]
