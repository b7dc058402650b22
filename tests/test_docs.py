"""The examples of the documentation run as they are printed, and its commands are commands."""

import ast
import configparser
import dataclasses
import importlib
import importlib.util
import inspect
import re
import shlex
import shutil
from fractions import Fraction
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import edgeseg
from edgeseg import frame_path
from edgeseg._jetson import JETPACKS
from edgeseg.backends._tensorrt.library import check_version
from edgeseg.cli import _parser
from edgeseg.errors import BackendUnavailableError
from edgeseg.workflows.build import BuildReport
from edgeseg.workflows.compile import CompileReport

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
API = DOCS / "api.md"
JETSON = DOCS / "jetson.md"
UNIT = DOCS / "edgeseg@.service"
PAGES = (ROOT / "README.md", *sorted(DOCS.glob("*.md")))


def commands(page: Path, program: str) -> list[str]:
    """Uses of a program in a page: lines of shell blocks, and single words in backquotes."""
    text = page.read_text(encoding="utf-8")
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        lines = re.sub(r"\\\n\s*", "", block).splitlines()  # one goes on behind a backslash
        found += [line.strip().removeprefix(".venv/bin/") for line in lines]
    found += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [line for line in found if line.startswith(f"{program} ")]


def words_of(line: str) -> list[str]:
    """The arguments of a command line, without a remark at its end."""
    return shlex.split(line, comments=True)[1:]


def live():
    """The program of ``docs/jetson_live.py``, not run."""
    spec = importlib.util.spec_from_file_location("jetson_live", DOCS / "jetson_live.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_api_examples_run(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", API.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    shutil.copytree(demo_bundle, tmp_path / "demo.edgeseg")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"api.md, block {number}", "exec"), names)
    assert names["result"].mask.shape == (480, 640)
    assert "auto chose openvino" not in names.get("error", "")


def test_the_api_examples_that_need_a_gpu_name_what_there_is() -> None:
    block, _ = re.findall(r"```py\n(.*?)```", API.read_text(), re.DOTALL)
    tree = ast.parse(block)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {node.func.attr: node for node in calls if isinstance(node.func, ast.Attribute)}
    assert set(called) == {"build", "open"}
    for name, node in called.items():
        signature = inspect.signature(getattr(edgeseg, name))
        signature.bind(*node.args, **{word.arg: word.value for word in node.keywords})
    (chain,) = re.findall(r"report((?:\.\w+)+)", block)
    kind: type = BuildReport
    for attribute in chain.removeprefix(".").split("."):
        hint = get_type_hints(kind, localns={"CompileReport": CompileReport})[attribute]
        kind = next((one for one in get_args(hint) if one is not type(None)), hint)
    assert kind is str


def test_the_example_of_the_frame_path_names_what_there_is() -> None:
    _, block = re.findall(r"```py\n(.*?)```", API.read_text(), re.DOTALL)
    tree = ast.parse(block)
    known = {
        name.name: getattr(importlib.import_module(node.module), name.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for name in node.names
    }
    assert {"open_frame_path", "Wanted", "Overlay"} <= known.keys()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            words = {word.arg: word.value for word in node.keywords}
            inspect.signature(known[node.func.id]).bind(*node.args, **words)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "path":
            assert callable(getattr(frame_path.FramePath, node.attr))
    fields = {field.name for field in dataclasses.fields(frame_path.FrameResult)} | {"area_px"}
    (told,) = re.findall(r"collect\(\)  # of the first: (.*)", block)
    assert {word.strip(" .") for word in told.split(",")} == fields


def understood(words: list[str]) -> bool:
    try:
        _parser().parse_args(words)
    except SystemExit as stop:
        return stop.code == 0
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = commands(page, "edgeseg")
    assert len(lines) >= {"README.md": 15, "jetson.md": 6}.get(page.name, 0)
    for line in lines:
        words = words_of(line)
        # "edgeseg build" in a sentence names a verb; an ellipsis stands for what is left out.
        if len(words) == 1 or "..." in words:
            words = [words[0], "-h"]
        # A sentence may name options alone, without what the verb works on.
        full = [words[0], "X", *words[1:]]
        assert understood(words) or (words[1].startswith("-") and understood(full)), (
            f"{page.name}: {line}: {capsys.readouterr().err}"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ")).strip().lower().replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target


def jetpack_rows() -> list[list[str]]:
    """The rows of the table of releases, without its head."""
    table = JETSON.read_text().split("## Which JetPack")[1].split("\n\n")[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert rows[0][0] == "JetPack"
    return rows[2:]


def test_the_table_of_releases_is_the_one_of_the_program() -> None:
    rows = jetpack_rows()
    assert rows[-1][1] == "-", "the add-on has no release of its own"
    for row, known in zip(rows[:-1], JETPACKS, strict=True):
        l4t = ", ".join(f"{major}.{minor}" for major, minor in known.l4t)
        told = [known.name, l4t, known.tensorrt, known.cuda, known.python, known.boards]
        assert row[:6] == told
        assert row[6].startswith("yes") == known.served


@pytest.mark.parametrize("row", jetpack_rows(), ids=lambda row: row[0])
def test_what_is_served_is_what_the_backend_accepts(row: list[str]) -> None:
    version = row[2].split()[0]
    if row[6].startswith("yes"):
        check_version(version)
    else:
        with pytest.raises(BackendUnavailableError):
            check_version(version)


def test_live_commands_are_understood() -> None:
    module = live()
    lines = commands(JETSON, "python")
    assert len(lines) >= 7
    for line in lines:
        script, *words = words_of(line)
        if script == "-m":
            assert importlib.util.find_spec(words[0]) is not None, line
            continue
        assert (ROOT / script).is_file(), line
        arguments = module.parser().parse_args(words)
        width, height = map(int, arguments.size.split("x"))
        assert width % 4 == 0
        assert module.source_words(arguments.source, width, height, Fraction(arguments.fps))


def test_the_service_runs_commands_that_exist() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read(UNIT)
    service = unit["Service"]
    text = UNIT.read_text()
    variables = dict(
        re.findall(r"\b([A-Z]+)=(\S+)", text.split("Environment=SOURCE")[1].split("\n")[0])
    )
    variables["SOURCE"] = re.search(r"SOURCE=(\S+)", text)[1]
    program, *words = shlex.split(service["ExecStartPre"])
    assert program.endswith("/edgeseg")
    assert _parser().parse_args(words).backend == "tensorrt"
    program, script, *words = shlex.split(service["ExecStart"])
    assert program.endswith("/python") and (DOCS / Path(script).name).is_file()
    words = [re.sub(r"\$\{(\w+)\}", lambda match: variables[match[1]], word) for word in words]
    arguments = live().parser().parse_args(words)
    assert arguments.source == "test" and arguments.sink == "fakesink"
    assert set(variables) == {"SOURCE", "SIZE", "FPS", "SINK"}
    for name in variables:
        assert f"{name}=" in JETSON.read_text()
