"""Import direction, and what imports without which library.

The layers are read from the table in ``docs/architecture.md``, so that the page stays true.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "edgeseg"
LINKS = {
    "export": "../export",
    "calib": "../calib",
    "bench": "../bench",
    "kernels": "../kernels/python",
}

# The only homes of each library, as module prefixes; workflows._probe runs in a process of its own.
PROBE = "edgeseg.workflows._probe"
# The one package below layer 4 that needs torch; the run time never imports it.
TRITON_DOOR = "edgeseg.kernels.triton_kernels"
HOMES = {
    "torch": ("edgeseg.export", "edgeseg.bench", TRITON_DOOR),
    "torchvision": ("edgeseg.export", "edgeseg.bench"),
    "timm": ("edgeseg.export",),
    "safetensors": ("edgeseg.export",),
    "onnx": ("edgeseg.export", "edgeseg.calib"),
    "onnxscript": ("edgeseg.export",),
    "modelopt": ("edgeseg.calib",),
    "onnx_graphsurgeon": ("edgeseg.calib",),
    "openvino": ("edgeseg.backends", "edgeseg.bench", PROBE),
    "onnxruntime": ("edgeseg.backends", "edgeseg.bench", "edgeseg.calib.rounding", PROBE),
    "tensorrt": ("edgeseg.backends._tensorrt", PROBE),
    "cuda": ("edgeseg.gpu",),
    "triton": (TRITON_DOOR, "edgeseg.bench"),
    "av": ("edgeseg.video", "edgeseg.live.sources", "edgeseg.live.sinks", PROBE),
    "starlette": ("edgeseg.web",),
    "uvicorn": ("edgeseg.web",),
    "websockets": ("edgeseg.web",),
    "nibabel": ("edgeseg.volume",),
    "PIL": ("edgeseg.bench",),
    "scipy": ("edgeseg.bench",),
    "nncf": ("edgeseg.bench",),
    "matplotlib": ("edgeseg.bench",),
    "rich": ("edgeseg.cli", "edgeseg.bench"),
}
RUN_TIME_LAYERS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Import:
    """One import statement, or a call that imports by a literal name."""

    module: str
    line: int
    for_types_only: bool


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by name, through the links, each once."""
    found = {}
    for base in (PACKAGE, *(PACKAGE / name for name in LINKS)):
        for path in base.rglob("*.py"):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


@cache
def layers() -> dict[str, int]:
    """Layer of each direct member of the package, from the table of the architecture page."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| ([^|]+) \|", text, re.MULTILINE)
    table: dict[str, int] = {}
    for number, members in rows:
        for name in re.findall(r"`(\w+)`", members):
            assert name not in table, f"{name} stands twice in the table"
            table[name] = int(number)
    return table


def unit(module: str) -> str:
    """Direct member of the package that a module belongs to; the package itself is ``edgeseg``."""
    return module.split(".")[1] if "." in module else module


@cache
def imports_of(name: str) -> tuple[Import, ...]:
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    return tuple(
        Import(target, node.lineno, id(node) in typing_only)
        for node in ast.walk(tree)
        for target in _targets(node)
    )


def _targets(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide the direction"
        assert node.module is not None
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            yield full if full in modules() else node.module
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else None
        called = node.func.id if isinstance(node.func, ast.Name) else called
        if called in ("require", "import_module", "__import__", "importorskip"):
            yield str(node.args[0].value)


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


BLOCKER = """
import sys

class Blocker:
    def __init__(self, names):
        self.names = set(names)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker(sys.argv[1].split(",")))
"""


def test_the_table_names_every_member_of_the_package():
    members = {unit(name) for name in modules()} - {"edgeseg"}
    assert members == set(layers())


def test_imports_go_to_the_same_or_a_lower_layer():
    wrong = []
    for name in modules():
        if unit(name) == "edgeseg":
            continue
        for found in imports_of(name):
            if not found.module.startswith("edgeseg.") or unit(found.module) == unit(name):
                continue
            mine, theirs = layers()[unit(name)], layers()[unit(found.module)]
            if theirs > mine or (theirs == mine == 4):
                wrong.append(
                    f"{name}:{found.line} (layer {mine}) imports {found.module} ({theirs})"
                )
    assert not wrong, "\n".join(wrong)


def test_no_two_members_need_each_other():
    graph = {
        member: {
            unit(found.module)
            for name in modules()
            if unit(name) == member
            for found in imports_of(name)
            if found.module.startswith("edgeseg.") and not found.for_types_only
        }
        - {member}
        for member in layers()
    }
    tuple(TopologicalSorter(graph).static_order())


def test_the_package_itself_imports_its_members_lazily():
    for found in imports_of("edgeseg"):
        assert found.for_types_only or not found.module.startswith("edgeseg"), found


def test_each_library_has_its_homes():
    wrong = []
    for name in modules():
        for found in imports_of(name):
            homes = HOMES.get(found.module.partition(".")[0])
            at_home = homes is None or any(
                name == home or name.startswith(f"{home}.") for home in homes
            )
            if not at_home and not found.for_types_only:
                wrong.append(f"{name}:{found.line} imports {found.module}")
    assert not wrong, "\n".join(wrong)


def behind_the_door(name: str) -> bool:
    return name == TRITON_DOOR or name.startswith(f"{TRITON_DOOR}.")


def test_the_run_time_never_imports_the_triton_kernels():
    wrong = [
        f"{name}:{found.line} imports {found.module}"
        for name in modules()
        if layers().get(unit(name), 0) in RUN_TIME_LAYERS and not behind_the_door(name)
        for found in imports_of(name)
        if behind_the_door(found.module)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_lowest_layer_needs_the_standard_library_and_numpy_alone():
    allowed = {*sys.stdlib_module_names, "numpy", "edgeseg"}
    for name in modules():
        if layers().get(unit(name)) == 0:
            outside = {found.module.partition(".")[0] for found in imports_of(name)} - allowed
            assert not outside, f"{name} imports {outside}"


def test_layer_one_adds_opencv_and_the_bindings_of_cuda():
    for name in modules():
        allowed = {*sys.stdlib_module_names, "numpy", "cv2", "edgeseg"}
        if unit(name) == "gpu":
            allowed.add("cuda")
        if layers().get(unit(name)) == 1 and not behind_the_door(name):
            outside = {found.module.partition(".")[0] for found in imports_of(name)} - allowed
            assert not outside, f"{name} imports {outside}"


def test_run_time_modules_import_without_torch_onnx_and_triton():
    names = sorted(
        name
        for name in modules()
        if (unit(name) == "edgeseg" or layers()[unit(name)] in RUN_TIME_LAYERS)
        and not behind_the_door(name)
    )
    assert {"edgeseg.model", "edgeseg.kernels", "edgeseg.backends._openvino"} <= set(names)
    done = run_python(
        BLOCKER + "import importlib\nfor name in sys.argv[2].split(','):\n"
        "    importlib.import_module(name)\n",
        "torch,torchvision,timm,onnx,onnxscript,triton,modelopt,scipy,PIL",
        ",".join(names),
    )
    assert done.returncode == 0, done.stderr


def test_calibration_imports_without_torch():
    names = sorted(name for name in modules() if unit(name) == "calib")
    done = run_python(
        BLOCKER + "import importlib\nfor name in sys.argv[2].split(','):\n"
        "    importlib.import_module(name)\n",
        "torch,torchvision,timm,triton,modelopt",
        ",".join(names),
    )
    assert done.returncode == 0, done.stderr


def test_workflows_and_command_line_import_without_the_libraries_they_may_need():
    names = sorted(name for name in modules() if unit(name) in ("workflows", "cli"))
    done = run_python(
        BLOCKER + "import importlib\nfor name in sys.argv[2].split(','):\n"
        "    importlib.import_module(name)\n",
        "torch,torchvision,timm,onnx,onnxscript,triton,modelopt,openvino,onnxruntime,av,rich,nncf,"
        "matplotlib,starlette,uvicorn,websockets",
        ",".join(names),
    )
    assert done.returncode == 0, done.stderr


HEAVY = (
    "torch,timm,onnx,onnxscript,triton,modelopt,openvino,onnxruntime,av,cv2,numpy,rich,scipy,PIL,"
    "nncf,matplotlib,starlette,uvicorn,websockets"
)


@pytest.mark.parametrize(
    "verb",
    ["", "fit", "build", "run", "segment", "eval", "bench", "inspect", "report", "doctor", "demo"],
)
def test_help_needs_no_heavy_library(verb):
    code = BLOCKER + "from edgeseg.cli import main\nraise SystemExit(main(sys.argv[2:]))\n"
    done = run_python(code, HEAVY, *filter(None, [verb]), "-h")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: edgeseg {verb}".rstrip())
    assert "-h, --help" in done.stdout


def test_every_verb_is_tested_above():
    done = run_python("from edgeseg.cli import VERBS\nprint(*VERBS)")
    (parameters,) = test_help_needs_no_heavy_library.pytestmark
    assert set(done.stdout.split()) == set(parameters.args[1]) - {""}


def test_the_package_imports_without_any_heavy_library():
    done = run_python(BLOCKER + "import edgeseg\nprint(edgeseg.__version__)\n", HEAVY)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", done.stdout)


def test_top_level_folders_are_members_through_relative_links():
    for name, target in LINKS.items():
        link = PACKAGE / name
        assert link.is_symlink(), f"{link} must be a link"
        assert str(link.readlink()) == target
        assert link.is_dir()
    # Another distribution owns the name ``kernels``: the folder must not become a package.
    assert not (REPOSITORY / "kernels" / "__init__.py").exists()
