from lm_headroom.audit.run_summary import FinishedJob, last_error, resume_command, reused_units, summary


def test_a_run_that_went_well_has_a_table_and_no_command():
    jobs = [
        FinishedJob("score_heads", "ran", ["a"], seconds=60),
        FinishedJob("score_heads", "ran", ["b"], seconds=30.4, attempts=2),
        FinishedJob("draw_fig03", "ran", ["c"], seconds=3),
        FinishedJob("render_prompts", "there", ["d"]),
    ]
    assert summary(jobs, 100, "snakemake").splitlines() == [
        "lm-headroom: 3 jobs ran, 1 were up to date, in 1 min 40 s",
        "",
        "  rule         jobs     wall time       longest",
        "  score_heads     2    1 min 30 s    1 min 00 s  1 at a later attempt",
        "  draw_fig03      1           3 s           3 s",
    ]


def test_a_failed_run_says_what_failed_why_and_how_to_go_on(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("Loading\nlm-headroom evaluate-pruned: error: results/r.parquet: no such file\nTerminated\n\n")
    jobs = [
        FinishedJob("evaluate_own", "failed", ["own.parquet", "random_1.parquet"], str(log), attempts=3),
        FinishedJob("draw_fig05", "waiting", ["fig05.pdf"]),
        FinishedJob("score_heads", "interrupted", ["scores.parquet"]),
    ]
    assert summary(jobs, 61, "snakemake --configfile study.yaml").splitlines() == [
        "lm-headroom: 0 jobs ran, 0 were up to date, 1 failed, 1 were interrupted, 1 did not run, in 1 min 01 s",
        "",
        "Failed",
        "  evaluate_own, 3 attempts: own.parquet and 1 more",
        f"    log: {log}",
        "    lm-headroom evaluate-pruned: error: results/r.parquet: no such file",
        "",
        "Interrupted",
        "  score_heads: scores.parquet",
        "",
        "Resume with",
        "  snakemake --configfile study.yaml",
    ]


def test_many_failures_are_counted_and_some_named():
    text = summary([FinishedJob("a", "failed", [str(n)]) for n in range(25)], 1, "snakemake")
    assert "  and 5 more\n" in text
    assert "  a: 19\n" in text
    assert "  a: 20\n" not in text


def test_the_line_that_says_what_went_wrong(tmp_path):
    log = tmp_path / "x.log"
    for text, expected in (
        ("a\nlm-headroom evaluate-joint: error: one\nValueError: two\n", "lm-headroom evaluate-joint: error: one"),
        (
            "Traceback (most recent call last):\ntorch.OutOfMemoryError: no room\n  note\n",
            "torch.OutOfMemoryError: no room",
        ),
        ("prune copa: 3/9 documents\n\n", "last line: prune copa: 3/9 documents"),
        ("", "the log is empty"),
        ("x" * 1000, f"last line: {'x' * 300}"),
    ):
        log.write_text(text)
        assert last_error(str(log)) == expected
    assert last_error(str(tmp_path / "none.log")) == "the log is empty"


def test_units_that_jobs_took_from_earlier_runs_are_summed(tmp_path):
    logs = []
    for name, text in (("a", "p: 5/9 u (1%), 5 reused, 1.0/s\np: 9/9 u (100%), 5 reused, done\n"), ("b", "no\n")):
        logs.append(str(tmp_path / name))
        (tmp_path / name).write_text(text)
    assert [reused_units(log) for log in (*logs, None)] == [5, 0, 0]
    jobs = [FinishedJob("prune", "ran", [log], log, 1.0) for log in logs]
    assert summary(jobs, 2, "").splitlines()[-1].endswith("1 s  5 units reused")


def test_the_command_that_resumes_is_the_one_that_ran_without_force():
    assert resume_command(["fig05", "--configfile", "my study.yaml", "--cores", "2"]) == (
        "snakemake fig05 --configfile 'my study.yaml' --cores 2"
    )
    assert resume_command(["-F", "all", "--forceall", "-R", "score_heads", "prompts", "--cores", "2", "-f"]) == (
        "snakemake all --cores 2"
    )
    assert resume_command(["--forcerun=x", "--workflow-profile", "profiles/slurm"]) == (
        "snakemake --workflow-profile profiles/slurm"
    )
