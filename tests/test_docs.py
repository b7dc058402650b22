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
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import edgeseg
from edgeseg import frame_path
from edgeseg._jetson import JETPACKS
from edgeseg.backends._tensorrt.library import check_version
from edgeseg.cli import parse_arguments
from edgeseg.cli._live_arguments import live_options, source_options, why_live
from edgeseg.errors import BackendUnavailableError
from edgeseg.live.uri import parse_sink, parse_source
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
        parse_arguments(words)
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


def test_programs_of_the_jetson_page_exist() -> None:
    for line in commands(JETSON, "python"):
        module, name, *_ = words_of(line)
        assert module == "-m" and importlib.util.find_spec(name) is not None, line


def live_commands() -> list[str]:
    lines = [line for page in PAGES for line in commands(page, "edgeseg")]
    # Capitals and brackets stand for what a reader puts there.
    return [
        line
        for line in lines
        if words_of(line)[0] == "run" and len(words_of(line)) > 2 and "[" not in line
    ]


def test_live_commands_name_sources_and_outputs_that_exist() -> None:
    kinds = set()
    for line in live_commands():
        arguments = parse_arguments(words_of(line))
        kinds.add(parse_source(arguments.input).kind)
        if why_live(arguments) is None:
            continue
        source_options(arguments)
        live_options(arguments)
        for output in arguments.output:
            parse_sink(output)
    assert kinds >= {"file", "v4l2", "rtsp", "csi", "gst", "test"}


def test_the_service_runs_commands_that_exist() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read(UNIT)
    service = unit["Service"]
    text = UNIT.read_text()
    variables = dict(
        word.partition("=")[::2]
        for line in text.splitlines()
        if line.startswith("Environment=SOURCE")
        for word in shlex.split(line.removeprefix("Environment="))
    )
    program, *words = shlex.split(service["ExecStartPre"])
    assert program.endswith("/edgeseg")
    assert parse_arguments(words).backend == "tensorrt"
    program, *words = shlex.split(service["ExecStart"])
    assert program.endswith("/edgeseg")
    # As systemd does: $NAME is split at blanks, ${NAME} is one word.
    words = [re.sub(r"\$\{(\w+)\}", lambda match: variables[match[1]], word) for word in words]
    words = [
        part
        for word in words
        for part in (shlex.split(variables[word[1:]]) if word.startswith("$") else [word])
    ]
    arguments = parse_arguments(words)
    assert parse_source(arguments.input).kind == "test"
    assert arguments.serve == "8080" and arguments.log is not None
    assert set(variables) == {"SOURCE", "OPTIONS"}
    for name in variables:
        assert f"{name}=" in JETSON.read_text()
