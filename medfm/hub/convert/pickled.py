"""The tensors of a module, or beside an optimiser, that was saved whole (``torch.save(model)``), read without building
anything of it.

Such a file is a program for Python's unpickler: it names classes, and opening it the usual way imports and calls them.
Here the program is only followed, one opcode after the other: what it names stays a name and what it would call is
noted down, so that nothing of it can run. A program that names more than a network consists of is refused besides.
Both layouts of ``torch.save`` are read, the zip archive and the plain stream from before PyTorch 1.6.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medfm.types import ReadError

PARTS = re.compile(
    r"torch\.nn\..+|torch\._utils\._rebuild_\w+|torch\.\w+Storage|torch\.Size|torch\.device|torchvision\.models\..+|"
    r"torchxrayvision\.models\..+|collections\.OrderedDict|(__builtin__|builtins)\.set|numpy\..+"
)
# What stands beside the weights where a training saves its optimiser as an object.
TRAINING = re.compile(
    rf"{PARTS.pattern}|torch\.optim\..+|monai\.optimizers\..+|collections\.defaultdict|argparse\.Namespace|_codecs\.encode|"
    r"copy_?reg\._reconstructor|(__builtin__|builtins)\.(dict|list|object|int|float)"
)
DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
HEADER = 3  # programs of the plain stream that come before the module: magic number, version, machine


class Name(str):
    """A class or function that the program names."""


class Storage(NamedTuple):
    """Numbers that lie outside the program, by key."""

    kind: Name
    key: str


@dataclass(eq=False)
class Call:
    """What the program would have made by calling ``name``; ``state`` is what it would have filled it with."""

    name: Name
    arguments: tuple[Any, ...]
    state: Any = None


def module_tensors(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of the module in ``path`` by their names, as ``module.state_dict()`` gives them.

    Raises :class:`ReadError` for a program that names anything else than parts of a network, for a file that holds no
    module, and for a damaged one.
    """
    try:
        module, read = _program(path, PARTS)
        tensors = dict(_named(module, "", read, set())) if isinstance(module, Call) else {}
    except ReadError:
        raise
    except (
        Exception
    ) as error:  # whatever a broken program leads to: a missing key, an empty stack, too few bytes
        raise ReadError(f"{path.name} is not a readable PyTorch module; it may be truncated.") from error
    if not tensors:
        raise ReadError(f"{path.name} holds objects but no network, whose weights could be taken out.")
    return tensors


def checkpoint_tensors(path: Path) -> dict[str, Any]:
    """Mappings of tensors in a checkpoint that holds objects of its training besides (an optimiser saved whole), which
    are left out; nested as they stand in the file.

    Raises :class:`ReadError` for a program that names anything else than parts of a network or of a training.
    """
    try:
        content, read = _program(path, TRAINING)
        found = _mapped(content, read) if isinstance(content, dict) else {}
    except ReadError:
        raise
    except Exception as error:  # as in module_tensors
        raise ReadError(f"{path.name} is not a readable PyTorch checkpoint; it may be truncated.") from error
    if not found:
        raise ReadError(f"{path.name} holds objects but no named tensors, which could be taken out.")
    return found


def _mapped(content: dict[Any, Any], read: Callable[[Storage], bytes]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            value = _mapped(value, read)
        elif isinstance(value, Call) and value.name.startswith("torch._utils._rebuild_"):
            value = _tensor(value, read)
        if isinstance(key, str) and (isinstance(value, Tensor) or (isinstance(value, dict) and value)):
            found[key] = value
    return found


def _program(path: Path, parts: re.Pattern[str]) -> tuple[Any, Callable[[Storage], bytes]]:
    return _archive(path, parts) if zipfile.is_zipfile(path) else _stream(path, parts)


def _archive(path: Path, parts: re.Pattern[str]) -> tuple[Any, Callable[[Storage], bytes]]:
    """Layout since PyTorch 1.6: the program in ``*/data.pkl``, every storage an uncompressed entry beside it."""
    with zipfile.ZipFile(path) as archive:
        (program,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
        root = program.removesuffix("data.pkl")
        packed = [i.filename for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED]
        if packed:  # nothing here unpacks to more than the file holds
            raise ReadError(f"{path.name} is compressed as PyTorch never does; it is no checkpoint.")
        with archive.open(program) as file:
            module = follow(file, path.name, parts=parts)
        numbers = {name: archive.read(name) for name in archive.namelist() if name.startswith(f"{root}data/")}
    return module, lambda storage: numbers[f"{root}data/{storage.key}"]


def _stream(path: Path, parts: re.Pattern[str]) -> tuple[Any, Callable[[Storage], bytes]]:
    """Layout before PyTorch 1.6: programs one after the other, then the storages in the order of the last one."""
    seen: dict[str, Storage] = {}
    with path.open("rb") as file:
        for _ in range(HEADER):
            follow(file, path.name)
        module = follow(file, path.name, seen, parts)
        keys = follow(file, path.name)
        numbers: dict[str, bytes] = {}
        for key in keys:
            size = int.from_bytes(file.read(8), "little") * DTYPES[seen[key].kind].itemsize
            numbers[key] = file.read(size)
    return module, lambda storage: numbers[storage.key]


def follow(
    file: Any, source: str, seen: dict[str, Storage] | None = None, parts: re.Pattern[str] = PARTS
) -> Any:
    """What the program in ``file`` (up to its STOP) leaves behind: plain values, :class:`Call` and :class:`Storage`.

    ``seen`` collects the storages by key. Raises :class:`ReadError` for a name outside ``parts`` and for an
    opcode that no module is saved with.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    argument: Any

    def since_mark() -> list[Any]:
        start = marks.pop()
        taken = stack[start:]
        del stack[start:]
        return taken

    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "GLOBAL":
                name = Name(argument.replace(" ", "."))
                if not parts.fullmatch(name):
                    raise ReadError(
                        f"{source} names {name}, which is no part of a network and could run code when opened: it was "
                        "not opened. Get the file from its makers again."
                    )
                stack.append(name)
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                stack.append(argument)
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND" | "APPENDS":
                values = [stack.pop()] if opcode.name == "APPEND" else since_mark()
                if not isinstance(stack[-1], Call):  # what an object would hold is of no use
                    stack[-1].extend(values)
            case "SETITEM" | "SETITEMS":
                pairs = [stack.pop(-2), stack.pop()] if opcode.name == "SETITEM" else since_mark()
                if not isinstance(stack[-1], Call):
                    stack[-1].update(zip(pairs[::2], pairs[1::2]))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BINPERSID":
                stack.append(_outside(stack.pop(), seen))
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack.append(_noted(stack.pop(), arguments))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Call):
                    stack[-1].state = state
            case other:
                raise ReadError(f"{source} holds {other}, with which no PyTorch module is saved.")
    raise EOFError


def _outside(reference: Any, seen: dict[str, Storage] | None) -> Any:
    """The class of a module, which the plain stream wraps with its source text, or a storage."""
    if reference[0] == "module":
        return reference[1]
    storage = Storage(*reference[1:3])
    if reference[5:] not in ((), (None,)):
        raise ValueError("a storage that is part of another one, as no network of today has")
    if seen is not None:
        seen[storage.key] = storage
    return storage


def _noted(name: Any, arguments: tuple[Any, ...]) -> Any:
    return dict(*arguments) if name == "collections.OrderedDict" else Call(Name(name), arguments)


def _named(
    module: Call, prefix: str, read: Callable[[Storage], bytes], met: set[int]
) -> list[tuple[str, Tensor]]:
    """Tensors of ``module`` and its children. One that was ``met`` before is left out, so that none leads to itself."""
    if id(module) in met:
        return []
    met.add(id(module))
    state = module.state or {}
    own = [(k, v) for part in ("_parameters", "_buffers") for k, v in state.get(part, {}).items()]
    found = [(prefix + name, _tensor(value, read)) for name, value in own if isinstance(value, Call)]
    for name, child in state.get("_modules", {}).items():
        if isinstance(child, Call):
            found += _named(child, f"{prefix}{name}.", read, met)
    return found


def _tensor(call: Call, read: Callable[[Storage], bytes]) -> Tensor:
    if call.name == "torch._utils._rebuild_parameter":
        return _tensor(call.arguments[0], read)
    storage, offset, size, stride = call.arguments[:4]
    values = torch.frombuffer(bytearray(read(storage)), dtype=DTYPES[storage.kind])
    return values.as_strided(size, stride, offset).clone()
