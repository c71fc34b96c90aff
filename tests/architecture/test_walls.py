"""The walls of the house: who may know whom, and which library lives in which room."""

from __future__ import annotations

import ast
from pathlib import PurePosixPath

import pytest
from package_source import PACKAGE, imports, module_name, room, sources

import medfm
from medfm.config.methods import METHODS

# room -> rooms it may import. `medfm` itself (its version) is open to all.
ALLOWED = {
    "types": set(),
    "paths": set(),
    "config": {"types", "paths"},
    "formats": {"types"},
    "backbones": {"types", "config"},
    "modalities": {"formats", "types", "config"},
    "data": {"formats", "modalities", "types", "paths", "config"},
    "synthetic": {"formats", "types", "config"},
    "evaluation": {"types"},
    "pretraining": {"backbones", "config", "types"},
    "finetuning": {"backbones", "config", "types"},
    "hub": {"types", "paths", "config", "backbones", "modalities"},
}
# Patient folds are arithmetic on arrays; the rest of `data` holds files and loaders.
ALLOWED_MODULES = {"evaluation": {"medfm.data.splits"}}
COMPOSERS = {"workflows", "model"}
FRONTS = {"cli", "__init__", "sklearn", "bench"}

# library -> places (a room, a folder in it, or one file) that may import it
OWNERS = {
    # The yardstick of `medfm bench load` is wfdb used plainly: it must not pass through the readers of `formats`.
    "wfdb": {"formats", "bench/wfdb_reference.py"},
    "pydicom": {"formats"},
    # Plain readers are the yardsticks of medfm bench, as wfdb is.
    "nibabel": {"formats", "bench/nifti_reference.py"},
    "gdcm": {"formats"},
    "h5py": {"formats"},
    "pyedflib": {"formats"},
    "sierraecg": {"formats"},
    "defusedxml": {"formats"},
    "timm": {"backbones/image2d.py", "hub/convert"},
    "monai": {"backbones", "modalities", "pretraining", "finetuning", "evaluation", "workflows"},
    "peft": {"finetuning/strategies", "hub/bundle.py"},
    "huggingface_hub": {"hub/huggingface.py"},
    "pytorch_lightning": {"pretraining", "finetuning", "data/loader.py", "workflows"},
    "sklearn": {"evaluation", "data/splits.py", "finetuning", "workflows", "sklearn.py"},
    "typer": {"cli"},
    # No telemetry and no silent network call: nothing else in the package can open a connection.
    "requests": set(),
    "httpx": {"hub/huggingface.py"},
    "aiohttp": set(),
    "socket": set(),
    "urllib.request": set(),
    "http.client": set(),
}


def _inside(file: str, places: set[str]) -> bool:
    path = PurePosixPath(file)
    return any(path == PurePosixPath(p) or PurePosixPath(p) in path.parents for p in places)


def test_every_room_has_its_wall():
    rooms = {room(module_name(f)) for f in sources()}
    assert rooms <= set(ALLOWED) | COMPOSERS | FRONTS, "a new room needs a line in ARCHITECTURE and here"


@pytest.mark.parametrize("name", ALLOWED)
def test_a_room_imports_only_what_it_may_know(name):
    allowed, modules = {name, "__init__"} | ALLOWED[name], ALLOWED_MODULES.get(name, set())
    broken = [
        str(i)
        for i in imports()
        if room(i.importer) == name
        and i.imported.split(".")[0] == "medfm"
        and room(i.imported) not in allowed
        and i.imported not in modules
    ]
    assert not broken, "\n".join(broken)


def test_nobody_below_imports_the_fronts():
    broken = [
        str(i)
        for i in imports()
        if i.imported.startswith("medfm.")
        and room(i.imported) in FRONTS | {"workflows"}
        and room(i.importer) not in FRONTS | COMPOSERS
    ]
    assert not broken, "\n".join(broken)
    from_cli = [str(i) for i in imports() if room(i.imported) == "cli" and room(i.importer) != "cli"]
    assert not from_cli, "\n".join(from_cli)


def test_bench_is_imported_by_cli_only():
    broken = [
        str(i)
        for i in imports()
        if i.imported.startswith("medfm.bench") and room(i.importer) not in ("bench", "cli")
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_stays_with_its_owners(library):
    broken = [
        str(i)
        for i in imports()
        if (i.imported == library or i.imported.startswith(library + "."))
        and not i.typing_only
        and not _inside(i.file, OWNERS[library])
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("name", ["types", "paths", "config"])
def test_vocabulary_and_configuration_import_nothing_heavy(name):
    heavy = {"torch", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "pytorch_lightning"}
    broken = [
        str(i)
        for i in imports()
        if room(i.importer) == name and i.imported.split(".")[0] in heavy and not i.typing_only
    ]
    assert not broken, "\n".join(broken)


def test_readers_and_numbers_know_no_torch():
    """Files are read, generated and judged without torch: worker processes that only do that stay small."""
    rooms = {"formats", "modalities", "synthetic", "evaluation"}
    broken = [str(i) for i in imports() if room(i.importer) in rooms and i.imported.split(".")[0] == "torch"]
    assert not broken, "\n".join(broken)


def test_no_module_reaches_itself_by_imports():
    modules = {module_name(f) for f in sources()}
    graph: dict[str, set[str]] = {m: set() for m in modules}
    for i in imports():
        if i.imported in modules and i.importer != "medfm" and not i.typing_only:
            graph[i.importer].add(i.imported)
    graph = {m: {t for t in targets if t != "medfm"} for m, targets in graph.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_a_method_never_imports_another():
    files = {entry.target.split(":")[0] for entry in METHODS.values()}
    broken = [str(i) for i in imports() if i.importer in files and i.imported in files - {i.importer}]
    assert not broken, "\n".join(broken)


def test_no_room_is_named_like_a_public_function():
    assert not {p.name for p in PACKAGE.iterdir() if p.is_dir()} & set(medfm.__all__)


def test_attention_is_written_once():
    """The project's one ViT; the frozen reference in bench stands apart on purpose."""
    names = {"scaled_dot_product_attention", "MultiheadAttention"}
    users = {
        file
        for file, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name)
        and getattr(node, "attr", getattr(node, "id", "")) in names
        if not file.startswith("bench/")
    }
    assert len(users) == 1 and all(file.startswith("backbones/") for file in users), users
