"""A task of one's own in an installed package, found by its entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.runtime.wheels import write_wheel

TASK = '''from atlas_lm.tasks import TemplatedTask, Templates, fields
from atlas_lm.types import Example


class Capitals(TemplatedTask):
    """{country, capital}: which city governs a country."""

    templates = {
        "fid": Templates("capital of {country}: <extra_id_0>", "<extra_id_0> {capital}"),
        "causal": Templates("What is the capital of {country}?", "{capital}"),
    }
    asked_field, answer_field = "country", "capital"
    query_fields, target_fields = ("country",), ("capital",)

    def process(self, row, *, place):
        country, capital = (fields.text(row, name, place=place) for name in ("country", "capital"))
        return Example(
            query=self.query_wording.format(country=country),
            target=self.target_wording.format(capital=capital),
            answers=(capital,),
            **fields.common(row, known=("country", "capital"), place=place),
        )
'''

RUN = """
import json
from atlas_lm.tasks import TaskConfig, find_task, load_examples, with_wording
config = with_wording(TaskConfig(task="capitals"), find_task("capitals"), "causal")
example = load_examples("capitals.jsonl", config)[0]
try:
    find_task("capitols")
except ValueError as error:
    print(json.dumps([example.query, example.target, str(error)]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory with the package, as ``pip install --target`` leaves it."""
    folder = tmp_path_factory.mktemp("plugin")
    points = "[atlas_lm.tasks]\ncapitals = atlas_capitals:Capitals\n"
    pin = write_wheel(
        folder,
        "atlas-capitals",
        "0.1",
        {"atlas_capitals.py": TASK, "atlas_capitals-0.1.dist-info/entry_points.txt": points},
    )
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "--disable-pip-version-check", "--target", folder / "site", folder / pin.filename],
        check=True,
    )
    return folder


def test_the_class_itself_has_fewer_than_20_lines():
    body = TASK[TASK.index("class Capitals") :].splitlines()
    assert len([line for line in body if line.strip()]) < 20


@pytest.mark.slow
def test_an_installed_task_works_like_the_packages_own_and_is_suggested(installed):
    row = {"country": "Peru", "capital": "Lima"}
    (installed / "capitals.jsonl").write_text(json.dumps(row) + "\n")
    path = os.pathsep.join([str(installed / "site"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=installed,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    query, target, hint = json.loads(done.stdout)
    assert (query, target) == ("What is the capital of Peru?", "Lima")
    assert "unknown task 'capitols' (did you mean 'capitals'?)" in hint
