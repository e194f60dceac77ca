import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared import config
from shared.errors import InputError
from tests.shared.entries import make_entry
from tests.shared.group import torchrun

ENTRY = """
    import sys
    from omegaconf import DictConfig
    from shared import config
    from shared.errors import InputError

    @config.entry(__file__)
    def main(cfg: DictConfig) -> None:
        print(config.run_dir(), config.section(cfg.data)["root"], flush=True)
        if cfg.fault == "input":
            raise InputError("caps.txt: expected 5 captions,\\nfound 4")
        if cfg.fault == "full disk":
            with open("/dev/full", "wb", buffering=0) as file:
                file.write(b"x")
        if cfg.fault == "no folder":
            open("/dev/null/file", "wb")
        if cfg.fault == "program":
            raise KeyError("a fault of the program")
        if cfg.fault == "missing file":
            open("/nowhere/file")
        if cfg.fault == "key":
            print(cfg.data.sise)
        if cfg.fault == "import":
            import pooling_of_demo
        if cfg.fault == "wait":
            import time
            time.sleep(60)
        if cfg.fault == "write":
            (config.run_dir() / "result").write_text("done")

    if __name__ == "__main__":
        main()
"""
SETTINGS = """
    fault: null
    data: {root: "${data_root:}/set", size: 3, must: 1}
"""
EXPERIMENTS = {"big": "# @package _global_\ndata: {size: 300}\n", "broken": "a: b: c\n"}
Finished = subprocess.CompletedProcess[str]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "demo"
    make_entry(folder, ENTRY, SETTINGS, name="train", experiments=EXPERIMENTS)
    return folder


def run(*command: str | Path, cwd: Path, **environment: str) -> Finished:
    clean = {
        key: value for key, value in os.environ.items() if key not in ("WORDSIGHT_DATA", config.TRACEBACK)
    }
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**clean, **environment},
        timeout=120,
        check=False,
    )


def expect_error(done: Finished, line: str) -> None:
    assert (done.returncode, done.stderr) == (2, f"error: {line}\n"), done.stderr


def test_by_name_by_path_and_as_a_module(project: Path) -> None:
    expected = f"{project}/runs/train {config.REPOSITORY}/data/set\n"
    for command, cwd in (
        (["train.py"], project),
        ([project / "train.py"], Path("/")),
        (["-m", "demo.train"], project.parent),
        (["-m", "train"], project),
    ):
        done = run(*command, cwd=cwd)
        assert (done.returncode, done.stdout, done.stderr) == (0, expected, ""), command


def test_data_root_from_the_environment(project: Path) -> None:
    assert run("train.py", cwd=project, WORDSIGHT_DATA="/big/disk").stdout.endswith(" /big/disk/set\n")
    assert run("train.py", cwd=project, WORDSIGHT_DATA="~/sets").stdout.endswith(f" {Path.home()}/sets/set\n")


def test_no_empty_run_folder_is_left(project: Path) -> None:
    run("train.py", cwd=project)
    assert not (project / "runs/train").exists()
    run("train.py", "fault=write", "name=other", cwd=project)
    assert [path.name for path in (project / "runs/other").iterdir()] == ["result"]


def test_sweep_folders_have_no_signs_that_break_overrides(project: Path) -> None:
    done = run("train.py", "-m", "data.size=1,2", "fault=write", cwd=project)
    assert done.returncode == 0, done.stderr
    folders = sorted(path.parent.name for path in (project / "runs/train").glob("*/result"))
    assert folders == ["data.size-1_fault-write", "data.size-2_fault-write"]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("fault=input", "caps.txt: expected 5 captions, found 4"),
        ("fault='full disk'", "No space left on device"),
        ("fault='no folder'", "/dev/null/file: Not a directory"),
        ("fault=key", "data.sise: Key 'sise' is not in struct"),
        ("data.sise=4", "data.sise: no such setting in configs/train.yaml; did you mean data.size?"),
        ("zzz=4", "zzz: no such setting in configs/train.yaml"),
        ("~data.sise", "data.sise: no such setting in configs/train.yaml; did you mean data.size?"),
        ("experiment=bgi", "Could not find 'experiment/bgi'; there are: big, broken"),
        ("model=tiny", "model: no such setting in configs/train.yaml"),
        ("data=tiny", "tiny: expected a group of settings (group.key=value on the command line)"),
        ("data.must=???", "data.must: Missing mandatory value: must"),
        ("data.root=${nope:}", "data.root: Unsupported interpolation type nope"),
        ("name=a=b", "name=a=b: not of the form setting=value (mismatched input '=' expecting <EOF>); "
         "put a value with signs in quotes"),
        ("train", "train: not of the form setting=value (Error parsing override 'train'); "
         "put a value with signs in quotes"),
        ("data.size=1,2", "Ambiguous value for argument 'data.size=1,2': a list is written [1,2], a text in "
         "quotes, a sweep with -m"),
        ("+data.size=4", "Could not append to config. An item is already at 'data.size'"),
    ],
)  # fmt: skip
def test_a_users_error_is_one_line(project: Path, override: str, line: str) -> None:
    expect_error(run("train.py", override, cwd=project), line)


def test_a_broken_yaml_file_is_one_line(project: Path) -> None:
    done = run("train.py", "experiment=broken", cwd=project)
    assert done.returncode == 2
    assert done.stderr.startswith("error: mapping values are not allowed here in ")
    assert "experiment/broken.yaml" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_run_folder_that_cannot_be_made(project: Path) -> None:
    (project / "runs").write_text("a file")
    expect_error(run("train.py", cwd=project), f"{project}/runs/train: Not a directory")


@pytest.mark.parametrize("fault", ["program", "missing file"])
def test_a_fault_of_the_program_has_a_traceback(project: Path, fault: str) -> None:
    done = run("train.py", f"fault='{fault}'", cwd=project)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert 'train.py", line' in done.stderr


def test_a_traceback_on_request(project: Path) -> None:
    done = run("train.py", "fault=input", cwd=project, **{config.TRACEBACK: "1"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_interrupted(project: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "train.py", "fault=wait"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "interrupted: the same command goes on from the last checkpoint\n"


@pytest.mark.parametrize("command", [["train.py"], ["-m", "train"]])
def test_a_file_of_the_project_hides_no_package(project: Path, command: list[str]) -> None:
    (project / "pooling_of_demo.py").write_text("print('found')\n")
    done = run(*command, "fault=import", cwd=project)
    assert "ModuleNotFoundError: No module named 'pooling_of_demo'" in done.stderr
    assert "found" not in done.stdout


def test_under_torchrun_one_rank_speaks(project: Path) -> None:
    done = torchrun(project / "train.py", "data.sise=4")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines == ["error: data.sise: no such setting in configs/train.yaml; did you mean data.size?"]
    assert "exitcode  : 2 " in done.stderr


def test_help_and_settings_are_shown(project: Path) -> None:
    assert "data:" in run("train.py", "--help", cwd=project).stdout
    shown = run("train.py", "--cfg", "job", "experiment=big", cwd=project).stdout
    assert "size: 300" in shown


def test_compose_gives_what_the_entry_gets(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORDSIGHT_DATA", "/sets")
    cfg = config.compose(project, "train", ["experiment=big", "data.must=2"])
    assert config.section(cfg.data) == {"root": "/sets/set", "size": 300, "must": 2}
    assert config.section(cfg)["name"] == "train"
    assert config.section(None) == {}
    with pytest.raises(InputError, match="3: expected a group of settings"):
        config.section(cfg.data.must + 1)
