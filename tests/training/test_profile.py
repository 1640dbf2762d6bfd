from atlas_lm.training.profile import StepProfiler


def test_a_run_too_short_for_a_trace_says_so(tmp_path, capsys):
    with StepProfiler(tmp_path, 2) as profiler:
        profiler(1)
    assert list(tmp_path.iterdir()) == []
    assert "nothing is recorded" in capsys.readouterr().err


def test_a_run_that_ends_before_its_trace_leaves_what_there_is(tmp_path):
    with StepProfiler(tmp_path, 9) as profiler:
        profiler(1)
        profiler(2)
    names = {file.name for file in (tmp_path / "profile").iterdir()}
    assert names == {"step-2-stopped.json", "step-2-stopped.txt"}
