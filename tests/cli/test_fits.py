import dataclasses

import pytest

from atlas_lm.cli.fits import refuse_what_cannot_fit
from atlas_lm.cli.joint import open_halves
from atlas_lm.cli.tiny import joint_config
from atlas_lm.config import HalfConfig
from atlas_lm.planning import Machine
from atlas_lm.runtime.errors import InputError


@pytest.fixture(scope="module")
def opened(tiny):
    config = joint_config(tiny, 0)
    config = dataclasses.replace(config, reader=HalfConfig(path=str(tiny.drawn / "reader")))
    return open_halves(config), config


def machine(ram):
    return Machine(ram_bytes=int(ram), disk_bytes=10**12)


def test_what_plainly_fits_is_not_planned(opened, tmp_path):
    assert refuse_what_cannot_fit(*opened, tmp_path, machine=machine(64e9)) is None


def test_what_cannot_fit_is_refused_with_numbers_and_remedies_unless_forced(
    opened, tmp_path, capsys
):
    small = machine(300e6)
    with pytest.raises(
        InputError, match=r"(?s)train step.*GB of RAM.*checkpointing.*bsz=1.*--force"
    ):
        refuse_what_cannot_fit(*opened, tmp_path, machine=small)
    request = refuse_what_cannot_fit(*opened, tmp_path, machine=small, force=True)
    assert request.passages == 80
    assert request.n_context == 4
    assert "going on all the same" in capsys.readouterr().err
