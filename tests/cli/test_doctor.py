"""``whet doctor`` reports from the installed packages' own metadata."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest

from whet.cli import doctor, main


def test_the_core_packages_are_all_there() -> None:
    core = doctor.requirements("")
    assert {"torch", "transformers", "peft", "pyyaml"} <= {package.name for package in core}
    assert all(package.version == version(package.name) and package.fits for package in core)


def test_extras_are_read_apart_from_the_core() -> None:
    names = [package.name for package in doctor.requirements("tensorboard")]
    assert names == ["tensorboard"]
    assert all(doctor.requirements(extra) is not None for extra in doctor.EXTRAS)


def test_the_report_names_versions_and_the_command_for_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["doctor"]) == 0
    report = capsys.readouterr().out
    assert version("torch") in report and "cores" in report and "device" in report
    for extra in ("wandb", "tensorboard"):
        try:
            version(extra)
        except PackageNotFoundError:
            assert f"pip install 'whet[{extra}]'" in report
