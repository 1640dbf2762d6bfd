import os
import signal
import time

import pytest

from atlas_lm.runtime.errors import InputError
from atlas_lm.training.lock import NAME, run_lock


def test_a_second_run_is_refused_and_told_who_is_at_work(tmp_path):
    with (
        run_lock(tmp_path),
        pytest.raises(InputError, match=rf"another run .*process {os.getpid()}"),
        run_lock(tmp_path),
    ):
        pass
    with run_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_dead_processs_claim_is_taken_over(tmp_path):
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with run_lock(tmp_path):
            os.write(tell, b"!")
            time.sleep(60)
        os._exit(0)
    assert os.read(ready, 1) == b"!"
    with pytest.raises(InputError, match=f"process {child}"), run_lock(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / NAME).is_file()
    with run_lock(tmp_path):
        pass


def test_what_a_claim_says_does_not_matter(tmp_path):
    (tmp_path / NAME).write_text("not JSON, from the year 3000")
    with run_lock(tmp_path):
        pass
