"""The structure of the package: which part imports which, what a light client loads, what is packaged."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import abstream
import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(abstream.__file__).parent
PARTS = ("schemas", "producer", "consumer", "training", "ops")

# Which parts each part may import. Training shares the forward pass and the tokenizing with serving, so that
# there is one of each: it may import the consumer's engine, and nothing else of the consumer.
ARROWS = {
    "schemas": set(),
    "producer": {"schemas"},
    "consumer": {"cryptography", "fsspec", "schemas"},
    "training": {"schemas", "consumer.engine"},
    "ops": {"schemas", "producer", "consumer", "training", ""},
}
TORCH = {"torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "tokenizers"}
OTHERS = {
    "schemas": {"msgspec", "pydantic", "typing_extensions"},
    "producer": {"hiredis", "openpyxl", "opentelemetry", "redis", "rispy"},
    "producer.gateway": {
        *{"pydantic", "pydantic_core", "redis", "structlog", "prometheus_client"},
        *{"fastapi", "fastapi_offline", "starlette", "uvicorn"},
    },
    "consumer": {
        *{
            "cryptography",
            "fsspec",
            "msgspec",
            "opentelemetry",
            "orjson",
            "prometheus_client",
            "pydantic",
            "redis",
            "structlog",
        }
    },
    "consumer.engine": {"msgspec", "numpy", "pydantic", "huggingface_hub", *TORCH},
    "training": {
        *{"cryptography", "fsspec"},
        *{"pydantic", "redis", "structlog", "numpy", "scipy", "sklearn", "matplotlib", "jinja2", "huggingface_hub"},
        *TORCH,
    },
}


def modules(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py"))


def imports(path: Path) -> list[tuple[str, ...]]:
    """Every import in a file: ('.', 'schemas', 'events') for our own, ('redis', 'asyncio') for another package."""
    package = path.relative_to(ROOT).parts[:-1]
    found: list[tuple[str, ...]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.append(tuple((node.module or "").split(".")))
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1]
            named = tuple(node.module.split(".")) if node.module else ()
            found += [(".", *above, *named)] if named or above else [(".", alias.name) for alias in node.names]
    return found


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_only_the_parts_it_may(part):
    for path in modules(part):
        for name in imports(path):
            if name[0] == "." and name[1:2] != (part,):
                reached = ".".join(name[1:])
                allowed = any(reached == arrow or reached.startswith(f"{arrow}.") for arrow in ARROWS[part])
                assert allowed or (part == "ops" and not reached.startswith(PARTS)), f"{path.name} imports {reached}"


@pytest.mark.parametrize("part", OTHERS)
def test_a_part_imports_only_its_libraries(part):
    rooms = {room.removeprefix(f"{part}.") for room in OTHERS if room.startswith(f"{part}.")}
    for path in modules(part.replace(".", "/")):
        if rooms & set(path.parts):
            continue
        foreign = {name[0] for name in imports(path)} - {".", "abstream"} - set(sys.stdlib_module_names)
        assert foreign <= OTHERS[part], f"{path.relative_to(ROOT)} imports {foreign - OTHERS[part]}"


HEAVY = {"redis", "rich", "structlog", "fastapi", "numpy", *TORCH}
BESIDE_TORCH = {"transformers", "peft", "accelerate", "datasets", "huggingface_hub", "sklearn", "scipy"}


@pytest.mark.parametrize(
    ("door", "closed_to"),
    [
        ("from abstream import Publisher, Subscriber", TORCH),
        ("import abstream.producer.formats", HEAVY),
        ("import abstream.ops.cli", HEAVY),  # for --help
        ("import abstream.ops.working", TORCH),  # a worker with another engine than Phi-3
        ("import abstream.consumer.engine.phi3", BESIDE_TORCH),
    ],
)
def test_what_must_start_fast_imports_nothing_slow(door, closed_to):
    code = f"import sys\n{door}\nprint(*({closed_to!r} & set(sys.modules)))"
    brought = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert brought.split() == []


def test_the_package_list_names_every_folder():
    """A package that is missing there would be left out of the wheel silently."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for part in PARTS for path in modules(part)}
    named = {".".join(("abstream", *folder.parts)) for folder in folders}
    assert set(settings["packages"]) == {"abstream", *named}


def test_data_files_are_packaged_too():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    globs = settings["package-data"]
    for package in settings["packages"]:
        folder = ROOT.joinpath(*package.split(".")[1:])
        patterns = [*globs["*"], *globs.get(package, [])]
        data = [path for path in folder.glob("*") if path.suffix in {".lua", ".json", ".jsonl", ".typed"}]
        assert all(any(path.match(pattern) for pattern in patterns) for path in data), f"{package} loses data"
    models = ROOT / "ops/models"
    assert {f"{path.name}/*" for path in models.iterdir() if path.is_dir() and path.name[0] != "_"} == set(
        globs["abstream.ops.models"]
    )
    assert (models / "phi3-nano/model.safetensors").exists()


@pytest.mark.parametrize("module", ["abstream", "abstream.schemas", "abstream.producer"])
def test_all_lists_every_public_name(module):
    door = importlib.import_module(module)
    for name in door.__all__:
        getattr(door, name)  # imports lazily what is not there yet
    public = {name for name, value in vars(door).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    public -= {"TYPE_CHECKING", "Any", "import_module"}  # needed for lazy imports
    assert set(door.__all__) == public
    assert list(door.__all__) == sorted(door.__all__, key=lambda name: (not name.isupper(), name))


def test_the_shipped_model_is_small():
    size = sum(path.stat().st_size for path in (ROOT / "ops/models").rglob("*") if path.is_file())
    assert size < 20_000_000
